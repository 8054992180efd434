/** The notification rules of a job, or that those of the installation apply. */
import { ask } from "../api/ask.ts";
import type { JobDetail } from "../api/types.ts";
import { RulesPanel } from "../notifications/rules.tsx";

interface NotificationsTabProps {
  job: JobDetail;
  onChange: () => Promise<void>;
}

export function NotificationsTab({ job, onChange }: NotificationsTabProps) {
  return (
    <RulesPanel
      title="Who is told how it ends"
      rules={job.policy.notify ?? null}
      otherwise="the default"
      pointer="/policy/notify"
      may={job.can.includes("update")}
      save={async (rules) => {
        await ask("PATCH /jobs/{id}", {
          path: { id: String(job.id) },
          // A merge patch: only what it names is changed.
          body: { policy: { notify: rules } } as never,
          match: `"${job.version}"`,
        });
        await onChange();
      }}
    />
  );
}
