/** The tab Targets: cells, the same rows as a table, and what to do with the selected ones. */
import { useCallback, useMemo, useState } from "preact/hooks";
import { Cells } from "../matrix/cells.tsx";
import { FIELDS, type Grouping, grouped } from "../matrix/rows.ts";
import type { Runs } from "../matrix/runs.ts";
import { isFinal, RUN_STATUSES } from "../matrix/states.ts";
import { copy } from "../parts/copy.tsx";
import { Filter } from "../parts/filter.tsx";
import { inNameOrder } from "../parts/natural-order.ts";
import { Text } from "../parts/text.tsx";
import { mayDo, mayLaunchAgain, mayRunAgain } from "../state/rights.ts";
import { query, setQuery } from "../router.tsx";
import { allOf, describe, flip, isEmpty, NOTHING } from "../state/selection.ts";
import { fitsChoice } from "../matrix/retries.ts";
import { CancelDialog } from "./cancel.tsx";
import { LaunchAgain } from "./launch-again.tsx";
import { RetryDialog, type Wanted } from "./retry.tsx";
import { RunAgainDialog } from "./run-again.tsx";
import { RunsTable } from "./runs-table.tsx";
import { openTarget } from "./target-panel.tsx";
import { useLabelKeys } from "./label-keys.ts";
import type { ExecutionView } from "./view.ts";

const ERRORS = ["nonzero_exit", "connect_timeout", "command_timeout", "lost", "auth_failed"];

export function TargetsTab({ view, runs }: { view: ExecutionView; runs: Runs }) {
  const keys = useLabelKeys();
  const group = query.value.get("group") ?? "name";
  const known = ["name", "status", "wave", ...keys.map((key) => `label:${key}`)];
  const by = (known.includes(group) || group.startsWith("label:") ? group : "name") as Grouping;
  return (
    <div class="stack">
      <div class="row">
        <Filter
          label="Filter targets"
          words={wordsOf(keys)}
          placeholder="Part of a name, or status:failed exit:1 env:prod"
          text
          open
        />
        <label class="row small">
          Group by
          <select
            class="input narrow"
            value={by}
            onChange={(event) => {
              const next = event.currentTarget.value;
              setQuery({ group: next === "name" ? null : next }, { replace: false });
            }}
          >
            <option value="name">name only</option>
            <option value="status">state</option>
            {runs.waves > 1 && <option value="wave">wave</option>}
            {[...new Set([...keys, ...labelOf(by)])].map((key) => (
              <option key={key} value={`label:${key}`}>
                {key}
              </option>
            ))}
          </select>
        </label>
      </div>
      <SelectionBar view={view} runs={view.runs.value ?? runs} />
      <CellMap view={view} runs={runs} by={by} />
      <RunsTable view={view} runs={runs} />
    </div>
  );
}

const labelOf = (by: Grouping): string[] =>
  by.startsWith("label:") ? [by.slice("label:".length)] : [];

function wordsOf(keys: readonly string[]) {
  const values: Record<string, readonly string[]> = {
    status: RUN_STATUSES,
    error: ERRORS,
    proof: ["killed", "already_finished", "never_started", "unreachable"],
  };
  return [...FIELDS, ...keys].map((word) => ({
    word,
    parameter: word,
    ...(values[word] && { values: values[word], open: word === "error" }),
    ...(FIELDS.includes(word) ? {} : { hint: "label" }),
  }));
}

function CellMap({ view, runs, by }: { view: ExecutionView; runs: Runs; by: Grouping }) {
  const rows = view.rows.value;
  const labels = view.labels.value;
  const settled = by === "status" ? view.settled.value : 0;
  const groups = useMemo(() => grouped(rows, runs, by, labels), [rows, runs, by, labels, settled]);
  const selected = view.selected.value;
  const isSelected = useMemo(() => {
    const chosen = new Set(selected);
    return (row: number) => chosen.has(row);
  }, [selected]);
  const onDraw = useCallback(
    (listener: Parameters<ExecutionView["onDraw"]>[0]) => view.onDraw(listener),
    [view],
  );
  const open = runs.rowNamed(query.value.get("target") ?? "");
  return (
    <Cells
      runs={runs}
      groups={groups}
      onDraw={onDraw}
      isSelected={isSelected}
      open={open}
      onOpen={(row) => openTarget(runs.name[row]!)}
      onToggle={(row) => view.setSelection(flip(view.selection.value, runs.id[row]!))}
    />
  );
}

/**
 * What is selected, as words and a number, with what can be done with it.
 *
 * `runs`: as they are now, whatever time is shown.
 */
function SelectionBar({ view, runs }: { view: ExecutionView; runs: Runs }) {
  const [retry, setRetry] = useState<Wanted | null>(null);
  const [again, setAgain] = useState(false);
  const [cancelled, setCancelled] = useState<Uint32Array | null>(null);
  const execution = view.execution.data.value;
  const selection = view.selection.value;
  const found = view.rows.value.length;
  const selected = view.selected.value;
  if (isEmpty(selection)) {
    return (
      <div class="row selection">
        <span class="dim">
          {found.toLocaleString("en")} of {runs.count.toLocaleString("en")} targets
        </span>
        {found > 0 && (
          <button
            type="button"
            class="button small"
            onClick={() => view.setSelection(allOf(view.filter.value))}
          >
            Select {found.toLocaleString("en")}
          </button>
        )}
      </div>
    );
  }
  const number = selected.length.toLocaleString("en");
  const names = () =>
    inNameOrder([...selected], (row) => runs.name[row]!).map((row) => runs.name[row]!);
  const targets = () => [...selected].map((row) => runs.target[row]!);
  const lost = () => [...selected].filter((row) => fitsChoice(runs, row, "lost")).length;
  return (
    <div class="row selection" role="region" aria-label="Selection">
      <b>{number} selected</b>
      <code>
        <Text of={describe(selection)} />
      </code>
      {execution && mayDo("executions:retry", execution.labels) && mayLaunchAgain(execution) && (
        <button
          type="button"
          class="button small"
          disabled={execution.finished_at === null || selected.length === 0}
          title={execution.finished_at === null ? "after it has ended" : undefined}
          onClick={() => setRetry({ targets: targets(), lost: lost() })}
        >
          Retry {number} …
        </button>
      )}
      {execution?.can.includes("cancel") && (
        <button
          type="button"
          class="button small danger"
          disabled={!selected.some((row) => !isFinal(runs.status[row]!))}
          onClick={() => setCancelled(selected)}
        >
          Cancel {number} …
        </button>
      )}
      {execution && execution.job_id !== null && mayRunAgain(execution) && (
        <button
          type="button"
          class="button small"
          disabled={selected.length === 0}
          onClick={() => setAgain(true)}
        >
          Run on these …
        </button>
      )}
      {execution && execution.job_id === null && mayRunAgain(execution) && (
        <LaunchAgain view={view} rows={selected} label="Run on these" small />
      )}
      {selected.length === 2 && (
        <button
          type="button"
          class="button small"
          onClick={() => setQuery({ tab: "groups", diff: names().join("~") }, { replace: false })}
        >
          Compare these 2
        </button>
      )}
      <button
        type="button"
        class="button small"
        onClick={() => void copy(names().join("\n"), `${number} names`)}
      >
        Copy names
      </button>
      <button type="button" class="button small plain" onClick={() => view.setSelection(NOTHING)}>
        Clear
      </button>
      {execution && retry && (
        <RetryDialog
          view={view}
          execution={execution}
          wanted={retry}
          onClose={() => setRetry(null)}
        />
      )}
      {execution && cancelled && (
        <CancelDialog
          view={view}
          execution={execution}
          rows={cancelled}
          onClose={() => setCancelled(null)}
        />
      )}
      {execution && again && (
        <RunAgainDialog execution={execution} targets={targets()} onClose={() => setAgain(false)} />
      )}
    </div>
  );
}
