/** The triggers of a job, and a new one. */
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
import { useResource } from "../state/resource.ts";
import { TriggerForm } from "../triggers/form.tsx";

const REFRESH_SECONDS = 15;
const SHOWN = 200;

export function TriggersTab({ job }: { job: JobDetail }) {
  const [adding, setAdding] = useState(false);
  const triggers = useResource(
    (signal) =>
      ask("GET /jobs/{id}/triggers", {
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
        <Act of={job} action="add_trigger" onAct={() => setAdding(true)}>
          New trigger …
        </Act>
      </p>
      <Loaded resource={triggers} what="triggers">
        {({ items }) =>
          items.length ? (
            <ul class="entries">
              {items.map((one) => (
                <li key={one.id}>
                  <Link to={`/triggers/${one.id}`}>
                    <b>
                      <Text of={one.name} />
                    </b>
                  </Link>
                  {!one.enabled && <Status state="disabled" />}
                  {one.last_call ? (
                    <span class="dim">
                      last call <Time at={one.last_call.at} ago />: {one.last_call.outcome}
                    </span>
                  ) : (
                    <span class="dim">not called yet</span>
                  )}
                </li>
              ))}
            </ul>
          ) : (
            <Empty why="No other program can launch it. A trigger is a URL with a secret that does, for GitHub, GitLab or your own." />
          )
        }
      </Loaded>
      {adding && (
        <TriggerForm
          job={job}
          trigger={null}
          onDone={(made) => go(`/triggers/${made.id}`)}
          onClose={() => setAdding(false)}
        />
      )}
    </div>
  );
}
