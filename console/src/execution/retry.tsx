/** Retry targets of an ended execution: by how they ended, or the selected ones. */
import { useMemo, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Execution, RetryPreview, Which } from "../api/types.ts";
import { CHOICES, countChoices, fitsChoice } from "../matrix/retries.ts";
import { AsCommand } from "../parts/copy.tsx";
import { countWords } from "../parts/counts.ts";
import { Confirm } from "../parts/dialog.tsx";
import { Check } from "../parts/form.tsx";
import { firstNames } from "../parts/natural-order.ts";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import type { ExecutionView } from "./view.ts";

/** What is to be retried: runs that ended in one way, or named targets. */
export type Wanted = { which: Which; count: number } | { targets: string[]; lost: number };

/** The targets of these runs; those that have succeeded are left out by the caller. */
export function wantedRuns(view: ExecutionView, runs: readonly number[]): Wanted {
  const all = view.runs.value;
  const rows = runs.map((run) => all?.rowOf(run)).filter((row) => row !== undefined);
  return {
    targets: rows.map((row) => all!.target[row]!),
    lost: rows.filter((row) => fitsChoice(all!, row, "lost")).length,
  };
}

const LABELS: Readonly<Record<Which, string>> = {
  failed: "failed",
  unreachable: "unreachable",
  lost: "lost",
  not_started: "not started",
  unsuccessful: "that did not succeed",
};

/** The choices of the menu with their numbers: those that differ, and are about any target. */
export function choicesOf(view: ExecutionView): { which: Which; label: string; count: number }[] {
  view.settled.value;
  const runs = view.runs.value;
  const counts = runs && countChoices(runs);
  const choices = CHOICES.map((which) => {
    return { which, label: LABELS[which], count: counts?.get(which) ?? 0 };
  });
  // The last one has all of the others; with as many targets as one of them it is the same.
  const all = choices.at(-1)!;
  const isSame = choices.some((one) => one !== all && one.count === all.count);
  return choices.filter((one) => one.count > 0 && !(isSame && one === all));
}

interface RetryProps {
  view: ExecutionView;
  execution: Execution;
  wanted: Wanted;
  onClose: () => void;
}

export function RetryDialog({ view, execution, wanted, onClose }: RetryProps) {
  const [again, setAgain] = useState(false);
  const [looked, setLooked] = useState(false);
  const key = useMemo(() => crypto.randomUUID(), []);
  const path = { id: view.id };
  const body = "which" in wanted ? { which: wanted.which } : { targets: wanted.targets };
  const preview = useResource(
    async (signal) =>
      (await ask("POST /executions/{id}/retry", {
        path,
        body: { ...body, again: true, dry_run: true },
        signal,
      })) as unknown as RetryPreview,
    [],
  );
  const found = preview.data.value;
  const count = found?.total_targets ?? ("which" in wanted ? wanted.count : wanted.targets.length);
  const lost = lostOf(view, wanted);
  const retried = (found?.retries.length ?? 0) > 0;
  const ready = found !== null && (lost === 0 || looked) && (!retried || again);
  const retry = async (reason: string) => {
    const launched = await ask("POST /executions/{id}/retry", {
      path,
      body: { ...body, again, ...(reason && { reason }) },
      idempotencyKey: key,
    });
    go(`/executions/${launched.id}`);
  };
  return (
    <Confirm
      title={`Retry ${count.toLocaleString("en")}?`}
      verb={`Retry ${count.toLocaleString("en")}`}
      count={count}
      ready={ready}
      reason="optional"
      onConfirm={retry}
      onClose={onClose}
    >
      <Loaded resource={preview} what="what would be retried">
        {(data) => <Preview execution={execution} preview={data} />}
      </Loaded>
      <AsCommand
        words={[...["opsjobs", "executions", "retry", view.id], ...optionsOf(wanted, view)]}
      />
      {lost > 0 && (
        <Check
          label={`I have looked at them: ${lost.toLocaleString("en")} may have done their work`}
          hint="Their command was started and its end is unknown. A retry runs it a second time."
          checked={looked}
          onChange={setLooked}
        />
      )}
      {retried && (
        <Check
          label="Retry those again that were retried before"
          hint={<RetriedBy preview={found!} />}
          checked={again}
          onChange={setAgain}
        />
      )}
    </Confirm>
  );
}

/** The options of the command; of many targets, their names. */
function optionsOf(wanted: Wanted, view: ExecutionView): string[] {
  if ("which" in wanted) return ["--which", wanted.which];
  const runs = view.runs.value;
  const names = new Map(runs?.target.map((id, row) => [id, runs.name[row]!]));
  return ["-t", wanted.targets.map((id) => names.get(id) ?? id).join(",")];
}

function RetriedBy({ preview }: { preview: RetryPreview }) {
  const isLastSeen = preview.retries.at(-1)!.status !== null;
  return (
    <>
      Retried by{" "}
      {preview.retries.map(({ id, status }, at) => (
        <span key={id}>
          {at > 0 && ", "}
          {status === null ? `#${id}` : <Link to={`/executions/${id}`}>#{id}</Link>}
        </span>
      ))}
      .{" "}
      {isLastSeen
        ? "To go on from there, retry that one."
        : "You may not see the last of them: to go on from there, ask someone who may."}
    </>
  );
}

function lostOf(view: ExecutionView, wanted: Wanted): number {
  if ("targets" in wanted) return wanted.lost;
  const runs = view.runs.value;
  if (!runs || wanted.which === "failed" || wanted.which === "not_started") return 0;
  let lost = 0;
  for (let row = 0; row < runs.count; row++) {
    if (fitsChoice(runs, row, wanted.which) && fitsChoice(runs, row, "lost")) lost++;
  }
  return lost;
}

function Preview({ execution, preview }: { execution: Execution; preview: RetryPreview }) {
  const names = preview.targets.map((target) => target.name);
  const { job_version, job_name } = execution;
  return (
    <div class="stack-tight">
      <p>
        <b>{countWords(preview.total_targets, "target")}</b>:{" "}
        <Text of={firstNames(names, preview.total_targets)} />
      </p>
      <p class="dim">
        Each begins at the step that went wrong; what succeeded is not run again. Actions and
        parameters are those of this execution
        {job_version !== null && (
          <>
            {" "}
            (version {job_version} of <Text of={job_name} />)
          </>
        )}
        .
      </p>
      {preview.needs_approval && <p>It starts once it has been approved.</p>}
    </div>
  );
}
