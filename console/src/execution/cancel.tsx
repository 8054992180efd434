/** Cancel an execution, and show afterwards what became of each of its targets. */
import { ask } from "../api/ask.ts";
import type { Execution } from "../api/types.ts";
import type { Runs } from "../matrix/runs.ts";
import { RUNNING, WAITING } from "../matrix/states.ts";
import { AsCommand } from "../parts/copy.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { setQuery } from "../router.tsx";
import type { ExecutionView } from "./view.ts";

interface CancelProps {
  view: ExecutionView;
  execution: Execution;
  onClose: () => void;
}

export function CancelDialog({ view, execution, onClose }: CancelProps) {
  const counts = view.runs.value ? view.counts.value : execution.counts;
  const running = counts["running"] ?? 0;
  const waiting = counts["waiting"] ?? 0;
  const cancel = async (reason: string) => {
    await ask("POST /executions/{id}/cancel", {
      path: { id: view.id },
      body: reason ? { reason } : {},
    });
    await view.execution.reload();
  };
  return (
    <Confirm
      title="Cancel?"
      verb={`Cancel ${(running + waiting).toLocaleString("en")}`}
      danger
      count={running + waiting}
      reason="optional"
      onConfirm={cancel}
      onClose={onClose}
    >
      <ul class="stack-tight">
        <li>
          <b>{running.toLocaleString("en")}</b> run now: their commands are ended, and that is
          proved.
        </li>
        <li>
          <b>{waiting.toLocaleString("en")}</b> wait: they are never started.
        </li>
        <li>
          <b>{(execution.total_targets - running - waiting).toLocaleString("en")}</b> have ended and
          stay as they are.
        </li>
      </ul>
      <AsCommand words={["opsjobs", "executions", "cancel", view.id]} />
    </Confirm>
  );
}

/** How a cancel went, by its proof; `open` are those that are not known yet. */
export function proofsOf(runs: Runs): Record<string, number> {
  const counts: Record<string, number> = {};
  for (let row = 0; row < runs.count; row++) {
    const status = runs.status[row]!;
    const proof = runs.proof[row] ?? (status === RUNNING || status === WAITING ? "open" : null);
    if (proof) counts[proof] = (counts[proof] ?? 0) + 1;
  }
  return counts;
}

const PROOFS: readonly [proof: string, state: string, words: string][] = [
  ["open", "running", "not ended yet"],
  ["killed", "cancelled", "killed: everything that they started is gone"],
  ["already_finished", "completed", "already finished"],
  ["never_started", "skipped", "never started"],
  [
    "unreachable",
    "lost",
    "unreachable: tried for a minute, then lost; ended when the machine is back",
  ],
];

/** The live counts of a cancel; choosing one filters by it. */
export function CancelProof({ view, execution }: { view: ExecutionView; execution: Execution }) {
  view.settled.value;
  const runs = view.runs.value;
  const asked = execution.status === "cancelling" || execution.status === "cancelled";
  if (!runs) return null;
  const counts = proofsOf(runs);
  if (!asked && !PROOFS.slice(1).some(([proof]) => counts[proof])) return null;
  return (
    <section class="panel" aria-label="Proof of the cancel">
      <header>
        <h2>Cancelled{execution.status === "cancelling" ? ": in progress" : ""}</h2>
      </header>
      <ul class="body stack-tight proofs">
        {PROOFS.filter(([proof]) => counts[proof]).map(([proof, state, words]) => (
          <li key={proof}>
            <button
              type="button"
              class="button small plain"
              onClick={() =>
                setQuery(
                  {
                    q: proof === "open" ? "status:running,waiting" : `proof:${proof}`,
                    tab: "targets",
                  },
                  { replace: false },
                )
              }
            >
              <Status state={state} label={counts[proof]!.toLocaleString("en")} />
            </button>{" "}
            <Text of={words} />
          </li>
        ))}
      </ul>
    </section>
  );
}
