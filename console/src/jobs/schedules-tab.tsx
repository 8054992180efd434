/** The schedules of a job, and a new one. */
import { ask } from "../api/ask.ts";
import type { JobDetail } from "../api/types.ts";
import { Status } from "../parts/status.tsx";
import { Time } from "../parts/time.tsx";
import { ScheduleForm } from "../schedules/form.tsx";
import { EntriesTab, SHOWN } from "./entries-tab.tsx";

export function SchedulesTab({ job }: { job: JobDetail }) {
  const path = { id: String(job.id) };
  return (
    <EntriesTab
      job={job}
      what="schedules"
      action="add_schedule"
      verb="New schedule …"
      load={(signal) => ask("GET /jobs/{id}/schedules", { path, query: SHOWN, signal })}
      facts={(one) => (
        <>
          <span class="dim">{one.words}</span>
          {one.enabled ? <Time at={one.next_due_at} /> : <Status state="paused" />}
        </>
      )}
      empty="There are no schedules yet: it runs only if it is launched by hand or by a trigger."
      form={(onDone, onClose) => (
        <ScheduleForm job={job} schedule={null} onDone={onDone} onClose={onClose} />
      )}
    />
  );
}
