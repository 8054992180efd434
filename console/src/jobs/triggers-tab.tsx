/** The triggers of a job, and a new one. */
import { ask } from "../api/ask.ts";
import type { JobDetail } from "../api/types.ts";
import { Status } from "../parts/status.tsx";
import { Time } from "../parts/time.tsx";
import { TriggerForm } from "../triggers/form.tsx";
import { EntriesTab, SHOWN } from "./entries-tab.tsx";

export function TriggersTab({ job }: { job: JobDetail }) {
  const path = { id: String(job.id) };
  return (
    <EntriesTab
      job={job}
      what="triggers"
      action="add_trigger"
      verb="New trigger …"
      load={(signal) => ask("GET /jobs/{id}/triggers", { path, query: SHOWN, signal })}
      facts={(one) => (
        <>
          {!one.enabled && <Status state="disabled" />}
          <span class="dim">
            {one.last_call ? (
              <>
                last call <Time at={one.last_call.at} ago />: {one.last_call.outcome}
              </>
            ) : (
              "not called yet"
            )}
          </span>
        </>
      )}
      empty="No other program can launch it. A trigger is a URL with a secret that does, for GitHub, GitLab or your own."
      form={(onDone, onClose) => (
        <TriggerForm job={job} trigger={null} onDone={onDone} onClose={onClose} />
      )}
    />
  );
}
