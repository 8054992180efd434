/** One execution: what happened, which hosts differ, what now? */
import { useEffect, useMemo } from "preact/hooks";
import type { ExecutionDetail } from "../api/types.ts";
import { CancelProof } from "../execution/cancel.tsx";
import { GroupsTab } from "../execution/groups-tab.tsx";
import { Head } from "../execution/head.tsx";
import { Outcome } from "../execution/outcome.tsx";
import { OutputTab } from "../execution/output-tab.tsx";
import { TargetPanel } from "../execution/target-panel.tsx";
import { TargetsTab } from "../execution/targets-tab.tsx";
import { TimeTravel } from "../execution/time-travel.tsx";
import { TimelineTab } from "../execution/timeline-tab.tsx";
import { ExecutionView } from "../execution/view.ts";
import { WhatRanTab } from "../execution/what-ran-tab.tsx";
import { WhoTab } from "../execution/who-tab.tsx";
import type { Runs } from "../matrix/runs.ts";
import { hasEnded } from "../matrix/states.ts";
import { type Tab, Tabs } from "../parts/tabs.tsx";
import { Loaded, Trouble } from "../parts/trouble.tsx";
import { query } from "../router.tsx";
import "../style/execution.css";

export default function ExecutionPage({ id }: { id: string }) {
  const view = useMemo(() => new ExecutionView(id), [id]);
  useEffect(() => {
    view.start();
    return () => view.stop();
  }, [view]);
  return (
    <Loaded resource={view.execution} what="the execution" heading={`Execution ${id}`}>
      {(execution) => <Body view={view} execution={execution} />}
    </Loaded>
  );
}

function Body({ view, execution }: { view: ExecutionView; execution: ExecutionDetail }) {
  const runs = view.runs.value;
  const failure = view.failure.value;
  return (
    <div class="stack execution">
      <Head view={view} execution={execution} />
      {failure && (
        <Trouble error={failure} onRetry={() => view.restart()} retryAt={view.retryAt.value} />
      )}
      {view.isBroken.value && !hasEnded(execution.status) && (
        <p class="small dim" role="status">
          The connection has broken: states are those of before. Connecting again …
        </p>
      )}
      {runs ? (
        <Parts view={view} execution={execution} runs={runs} />
      ) : (
        !failure && (
          <p class="loading" role="status">
            Loading {execution.total_targets.toLocaleString("en")} targets …
          </p>
        )
      )}
    </div>
  );
}

const FAILED: ReadonlySet<ExecutionDetail["status"]> = new Set(["partial", "failed", "timeout"]);

const hasFailed = (execution: ExecutionDetail): boolean => FAILED.has(execution.status);

interface PartsProps {
  view: ExecutionView;
  execution: ExecutionDetail;
  /** As they are now. */
  runs: Runs;
}

function Parts({ view, execution, runs }: PartsProps) {
  const shown = view.shown.value ?? runs;
  const tabs: Tab[] = [
    {
      name: "groups",
      label: "Groups",
      content: () => <GroupsTab view={view} execution={execution} />,
    },
    { name: "targets", label: "Targets", content: () => <TargetsTab view={view} runs={shown} /> },
    { name: "output", label: "Output", content: () => <OutputTab view={view} /> },
    {
      name: "timeline",
      label: "Timeline",
      content: () => <TimelineTab view={view} runs={shown} />,
    },
    {
      name: "spec",
      label: "What ran",
      content: () => <WhatRanTab view={view} execution={execution} />,
    },
    { name: "who", label: "Who", content: () => <WhoTab view={view} execution={execution} /> },
  ];
  // What has ended badly opens on what it came to. Decided once: no tab moves under the reader.
  const first = useMemo(() => (hasFailed(execution) ? "groups" : "targets"), [view]);
  const target = query.value.get("target");
  const tab = query.value.get("tab") ?? first;
  return (
    <>
      <CancelProof view={view} execution={execution} />
      {tab !== "groups" && <Outcome view={view} execution={execution} />}
      <div class={target ? "with-side" : ""}>
        <div class="grow travel-place">
          <TimeTravel view={view} runs={runs} />
          <Tabs label="Parts of the execution" tabs={tabs} first={first} />
        </div>
        {target && <TargetPanel view={view} runs={runs} />}
      </div>
    </>
  );
}
