/** The schedules of a job, and a new one. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { JobDetail } from "../api/types.ts";
import { Act } from "../parts/act.tsx";
import { Empty } from "../parts/empty.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { ScheduleForm } from "../schedules/form.tsx";
import { useResource } from "../state/resource.ts";

const REFRESH_SECONDS = 15;
const SHOWN = 200;

export function SchedulesTab({ job }: { job: JobDetail }) {
  const [adding, setAdding] = useState(false);
  const schedules = useResource(
    (signal) =>
      ask("GET /jobs/{id}/schedules", {
        path: { id: String(job.id) },
        query: { limit: SHOWN },
        signal,
      }),
    [job.id],
    REFRESH_SECONDS,
  );
  return (
    <div class="stack">
      <p class="row">
        <Act of={job} action="add_schedule" onAct={() => setAdding(true)}>
          New schedule …
        </Act>
      </p>
      <Loaded resource={schedules} what="schedules">
        {({ items }) =>
          items.length ? (
            <ul class="entries">
              {items.map((one) => (
                <li key={one.id}>
                  <Link to={`/schedules/${one.id}`}>
                    <b>
                      <Text of={one.name} />
                    </b>
                  </Link>
                  <span class="dim">{one.words}</span>
                  {one.enabled ? <Time at={one.next_due_at} /> : <Status state="paused" />}
                </li>
              ))}
            </ul>
          ) : (
            <Empty why="It runs only when somebody launches it." />
          )
        }
      </Loaded>
      {adding && (
        <ScheduleForm
          job={job}
          schedule={null}
          onDone={(made) => go(`/schedules/${made.id}`)}
          onClose={() => setAdding(false)}
        />
      )}
    </div>
  );
}
