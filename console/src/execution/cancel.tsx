/** Cancel an execution or some of its targets, and show afterwards what became of each. */
import type { ComponentChildren } from "preact";
import { ask } from "../api/ask.ts";
import type { Execution } from "../api/types.ts";
import { type Runs, tally } from "../matrix/runs.ts";
import { RUNNING, WAITING } from "../matrix/states.ts";
import { AsCommand } from "../parts/copy.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { setQuery } from "../router.tsx";
import type { ExecutionView } from "./view.ts";

interface CancelProps {
  view: ExecutionView;
  execution: Execution;
  /** Rows of the targets; null: all of them. */
  rows: Uint32Array | null;
  onClose: () => void;
}

export function CancelDialog({ view, execution, rows, onClose }: CancelProps) {
  view.settled.value;
  const runs = view.runs.value;
  const counts = runs ? countsOf(runs, rows) : execution.counts;
  const running = counts["running"] ?? 0;
  const waiting = counts["waiting"] ?? 0;
  const total = rows?.length ?? execution.total_targets;
  const cancel = async (reason: string) => {
    const targets = rows && { targets: [...rows].map((row) => runs!.target[row]!) };
    const asked = await ask("POST /executions/{id}/cancel", {
      path: { id: view.id },
      body: { ...targets, ...(reason && { reason }) },
    });
    if (asked.targets) toast(wordsOfCancel(asked.targets));
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
        <Share of={running} one="is running: its command is" all="are running: their commands are">
          {" "}
          killed, and the proof is shown here.
        </Share>
        <Share of={waiting} one="waits: it is" all="wait: they are">
          {" "}
          never started.
        </Share>
        <Share of={total - running - waiting} one="has ended and stays" all="have ended and stay">
          {" "}
          as before.
        </Share>
      </ul>
      {rows && <p>The other targets continue.</p>}
      <AsCommand words={["opsjobs", "executions", "cancel", view.id, ...optionsOf(runs, rows)]} />
    </Confirm>
  );
}

interface ShareProps {
  of: number;
  one: string;
  all: string;
  children: ComponentChildren;
}

/** What becomes of a part of the targets; nothing if there are none. */
function Share({ of, one, all, children }: ShareProps) {
  if (of === 0) return null;
  return (
    <li>
      <b>{of.toLocaleString("en")}</b> {of === 1 ? one : all}
      {children}
    </li>
  );
}

function countsOf(runs: Runs, rows: Uint32Array | null): Record<string, number> {
  const counts = tally(runs.status, rows ?? undefined);
  return { running: counts[RUNNING]!, waiting: counts[WAITING]! };
}

function optionsOf(runs: Runs | null, rows: Uint32Array | null): string[] {
  return rows && runs ? ["-t", [...rows].map((row) => runs.name[row]!).join(",")] : [];
}

interface Cancelled {
  cancelled: number;
  stopping: number;
  ended_before: number;
}

function wordsOfCancel({ cancelled, stopping, ended_before }: Cancelled): string {
  const parts: [number, string][] = [
    [cancelled, "cancelled"],
    [stopping, "being stopped"],
    [ended_before, "had ended before"],
  ];
  return parts
    .filter(([count]) => count > 0)
    .map(([count, words]) => `${count.toLocaleString("en")} ${words}`)
    .join(", ");
}

/** How a cancel went, by its proof; if `all` are cancelled, `open` are those not known yet. */
export function proofsOf(runs: Runs, all: boolean): Record<string, number> {
  const counts: Record<string, number> = {};
  for (let row = 0; row < runs.count; row++) {
    const status = runs.status[row]!;
    const isOpen = all && (status === RUNNING || status === WAITING);
    const proof = runs.proof[row] ?? (isOpen ? "open" : null);
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
  if (!runs || view.past.value) return null;
  const counts = proofsOf(runs, asked);
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
