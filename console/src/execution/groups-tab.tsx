/** The tab Groups: targets with equal results, and their differences. */
import { useState } from "preact/hooks";
import type { ExecutionDetail } from "../api/types.ts";
import { Groups } from "../groups/groups.tsx";
import { setQuery } from "../router.tsx";
import { selectRuns } from "./output-tab.tsx";
import { RetryDialog, type Wanted, wantedRuns } from "./retry.tsx";
import { openTarget } from "./target-panel.tsx";
import type { ExecutionView } from "./view.ts";

export function GroupsTab({
  view,
  execution,
}: {
  view: ExecutionView;
  execution: ExecutionDetail;
}) {
  const [retry, setRetry] = useState<Wanted | null>(null);
  return (
    <>
      <Groups
        id={view.id}
        hasEnded={view.hasEnded}
        hasJob={execution.job_id !== null}
        onTarget={openTarget}
        onSelect={(runs) => setQuery(selectRuns(runs), { replace: false })}
        onRetry={
          execution.can.includes("retry") ? (runs) => setRetry(wantedRuns(view, runs)) : null
        }
      />
      {retry && (
        <RetryDialog
          view={view}
          execution={execution}
          wanted={retry}
          onClose={() => setRetry(null)}
        />
      )}
    </>
  );
}
