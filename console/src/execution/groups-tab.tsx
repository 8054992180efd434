/** The tab Groups: targets with equal results, and their differences. */
import { Groups } from "../groups/groups.tsx";
import { setQuery } from "../router.tsx";
import { selectRuns } from "./output-tab.tsx";
import { openTarget } from "./target-panel.tsx";
import type { ExecutionView } from "./view.ts";

export function GroupsTab({ view }: { view: ExecutionView }) {
  return (
    <Groups
      id={view.id}
      hasEnded={view.hasEnded}
      onTarget={openTarget}
      onSelect={(runs) => setQuery(selectRuns(runs), { replace: false })}
    />
  );
}
