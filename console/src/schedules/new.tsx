/** A new schedule: first of which job, then its form. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { JobChoice } from "../jobs/choice.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
import { ScheduleForm } from "./form.tsx";

export function NewSchedule({ onClose }: { onClose: () => void }) {
  const [job, setJob] = useState<string | null>(null);
  if (job !== null) return <FormOf job={job} onClose={onClose} />;
  return (
    <Dialog title="New schedule" onClose={onClose}>
      <JobToSchedule onChoose={setJob} />
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

function JobToSchedule({ onChoose }: { onChoose: (id: string) => void }) {
  const [typed, setTyped] = useState("");
  return (
    <JobChoice
      label="Job to run"
      list="Jobs to schedule"
      most={10}
      permission="schedules:manage"
      typed={typed}
      onType={setTyped}
      none={
        <Empty why="There is no job to schedule yet.">
          {mayDo("jobs:create") && <Link to="/jobs/new">New job …</Link>}
        </Empty>
      }
    >
      {(job) => (
        <button type="button" class="button small" onClick={() => onChoose(String(job.id))}>
          <Text of={job.name} />
        </button>
      )}
    </JobChoice>
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
