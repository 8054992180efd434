/** Pause an execution, and resume it. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Execution } from "../api/types.ts";
import { Confirm } from "../parts/dialog.tsx";
import { toast } from "../parts/toast.tsx";
import type { ExecutionView } from "./view.ts";

interface ResumeProps {
  view: ExecutionView;
  execution: Execution;
  /** The kind of its wait. */
  kind: string;
}

/** Resuming past failures starts work that a gate stopped, so it is confirmed. */
export function ResumeButton({ view, execution, kind }: ResumeProps) {
  const [open, setOpen] = useState(false);
  const next = execution.waves?.open;
  const verb = kind === "pause" ? "Resume" : `Open wave ${(next ?? 0) + 1}`;
  const resume = async () => {
    const resumed = await ask("POST /executions/{id}/resume", { path: { id: view.id } });
    await view.execution.reload();
    const { accepted } = resumed;
    toast(accepted ? `Resumed. ${accepted.failures} failures are accepted.` : "Resumed.");
  };
  return (
    <>
      <button type="button" class="button primary" onClick={() => setOpen(true)}>
        {verb}
      </button>
      {open && (
        <Confirm
          title={`${verb}?`}
          verb={verb}
          careful={false}
          onConfirm={resume}
          onClose={() => setOpen(false)}
        >
          <p>
            {(execution.counts["waiting"] ?? 0).toLocaleString("en")} targets wait.
            {kind === "max_fail" && " The failures so far are accepted by this."}
            {kind === "check" && " The failed check is passed over by this."}
          </p>
        </Confirm>
      )}
    </>
  );
}

export function PauseDialog({ view, onClose }: { view: ExecutionView; onClose: () => void }) {
  const pause = async (reason: string) => {
    await ask("POST /executions/{id}/pause", {
      path: { id: view.id },
      body: reason ? { reason } : {},
    });
    await view.execution.reload();
    toast("Paused. Commands that run go on.");
  };
  return (
    <Confirm title="Pause?" verb="Pause" reason="optional" onConfirm={pause} onClose={onClose}>
      <p>No further target starts until it is resumed. Commands that run go on.</p>
    </Confirm>
  );
}
