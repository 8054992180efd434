/** A new schedule: first of which job, then its form. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { labelsOf } from "../jobs/labels.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Field } from "../parts/form.tsx";
import { useSettled } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
import { ScheduleForm } from "./form.tsx";

const SHOWN = 20;

export function NewSchedule({ onClose }: { onClose: () => void }) {
  const [job, setJob] = useState<string | null>(null);
  if (job !== null) return <FormOf job={job} onClose={onClose} />;
  return (
    <Dialog title="New schedule" onClose={onClose}>
      <JobChoice onChoose={setJob} />
      <Back onClose={onClose} />
    </Dialog>
  );
}

function Back({ onClose }: { onClose: () => void }) {
  return (
    <div class="actions">
      <button type="button" class="button" onClick={onClose}>
        Go back
      </button>
    </div>
  );
}

function JobChoice({ onChoose }: { onChoose: (id: string) => void }) {
  const [typed, setTyped] = useState("");
  const q = useSettled(typed, typed);
  const jobs = useResource(
    (signal) =>
      ask("GET /jobs", {
        query: { state: ["active"], limit: SHOWN, sort: "name", ...(q && { q }) },
        signal,
      }),
    [q],
  );
  return (
    <>
      <Field label="Job to run" hint="Part of its name or description">
        <input
          class="input"
          data-first
          autoComplete="off"
          value={typed}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
      </Field>
      <Loaded resource={jobs} what="jobs">
        {({ items, next }) => {
          const mine = items.filter((one) => mayDo("schedules:manage", labelsOf(one)));
          if (mine.length === 0)
            return (
              <Empty why={q ? "No job has this text." : "There is no job to schedule yet."}>
                {!q && mayDo("jobs:create") && <Link to="/jobs/new">New job …</Link>}
              </Empty>
            );
          return (
            <ul class="entries" aria-label="Jobs to schedule">
              {mine.map((one) => (
                <li key={one.id}>
                  <button
                    type="button"
                    class="button small"
                    onClick={() => onChoose(String(one.id))}
                  >
                    <Text of={one.name} />
                  </button>
                  <span class="dim cut">
                    <Text of={one.description} />
                  </span>
                </li>
              ))}
              {next && <li class="dim">There are more jobs: type part of a name.</li>}
            </ul>
          );
        }}
      </Loaded>
    </>
  );
}

/** The form needs the job's parameters. */
function FormOf({ job, onClose }: { job: string; onClose: () => void }) {
  const found = useResource(
    (signal) => ask("GET /jobs/{id}", { path: { id: job }, signal }),
    [job],
  );
  const data = found.data.value;
  if (data)
    return (
      <ScheduleForm
        job={data}
        schedule={null}
        onDone={(made) => go(`/schedules/${made.id}`)}
        onClose={onClose}
      />
    );
  return (
    <Dialog title="New schedule" onClose={onClose}>
      <Loaded resource={found} what="the job">
        {() => null}
      </Loaded>
      <Back onClose={onClose} />
    </Dialog>
  );
}
