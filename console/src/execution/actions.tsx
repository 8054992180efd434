/** What can be done with an execution: cancel, pause, retry, run again, copy. */
import { useState } from "preact/hooks";
import type { ExecutionDetail } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { commandLine, curlLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { Menu, type MenuItem } from "../parts/menu.tsx";
import { mayRunAgain } from "../state/rights.ts";
import { CancelDialog } from "./cancel.tsx";
import { LaunchAgain } from "./launch-again.tsx";
import { PauseDialog } from "./pause.tsx";
import { choicesOf, RetryDialog, type Wanted } from "./retry.tsx";
import { RunAgainDialog } from "./run-again.tsx";
import type { ExecutionView } from "./view.ts";

type Open = "cancel" | "pause" | "again" | { retry: Wanted };

export function Actions({ view, execution }: { view: ExecutionView; execution: ExecutionDetail }) {
  const [open, setOpen] = useState<Open | null>(null);
  const close = () => setOpen(null);
  const ended = execution.finished_at !== null;
  const { status, id } = execution;
  const whyNot = (action: string): string | null => execution.cannot[action]?.detail ?? null;
  // What a role never allows is in neither list, and is not shown.
  const has = (action: string): boolean =>
    execution.can.includes(action) || whyNot(action) !== null;
  return (
    <>
      {!ended && has("cancel") && (
        <>
          <button
            type="button"
            class="button danger"
            disabled={status === "cancelling" || whyNot("cancel") !== null}
            title={whyNot("cancel") ?? undefined}
            onClick={() => setOpen("cancel")}
          >
            {status === "cancelling" ? "Cancelling …" : "Cancel"}
          </button>
          {(status === "running" || status === "queued") && (
            <button type="button" class="button" onClick={() => setOpen("pause")}>
              Pause
            </button>
          )}
        </>
      )}
      {has("retry") && (
        <RetryMenu view={view} why={whyNot("retry")} onChoose={(retry) => setOpen({ retry })} />
      )}
      {ended && mayRunAgain(execution) && (
        <RunAgain view={view} execution={execution} onChoose={() => setOpen("again")} />
      )}
      <CopyMenu
        of={{
          command: commandLine("opsjobs", "executions", "show", String(id)),
          curl: curlLine("GET", `${location.origin}${PREFIX}/executions/${id}`),
          json: execution,
        }}
      />
      {open === "cancel" && (
        <CancelDialog view={view} execution={execution} rows={null} onClose={close} />
      )}
      {open === "pause" && <PauseDialog view={view} onClose={close} />}
      {open === "again" && <RunAgainDialog execution={execution} targets={null} onClose={close} />}
      {typeof open === "object" && open && (
        <RetryDialog view={view} execution={execution} wanted={open.retry} onClose={close} />
      )}
    </>
  );
}

interface RunAgainProps {
  view: ExecutionView;
  execution: ExecutionDetail;
  onChoose: () => void;
}

function RunAgain({ view, execution, onChoose }: RunAgainProps) {
  if (execution.job_id === null) return <LaunchAgain view={view} rows={null} label="Run again" />;
  return (
    <button type="button" class="button" onClick={onChoose}>
      Run again
    </button>
  );
}

interface RetryMenuProps {
  view: ExecutionView;
  /** Why nothing can be retried now. */
  why: string | null;
  onChoose: (wanted: Wanted) => void;
}

function RetryMenu({ view, why, onChoose }: RetryMenuProps) {
  const items: MenuItem[] = choicesOf(view).map(({ which, label, count }) => ({
    label: `${count.toLocaleString("en")} ${label}`,
    why,
    onChoose: () => onChoose({ which, count }),
  }));
  if (items.length === 0) return null;
  return <Menu label="Retry" items={items} shortcut="actions" />;
}
