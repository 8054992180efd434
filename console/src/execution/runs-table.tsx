/** The targets in words: the same rows as the cells, sortable, with what each came to. */
import { useMemo } from "preact/hooks";
import { type SortKey, sorted, tooNarrow } from "../matrix/rows.ts";
import type { Runs } from "../matrix/runs.ts";
import { RUN_STATUSES } from "../matrix/states.ts";
import { Empty, None } from "../parts/empty.tsx";
import { durationWords } from "../parts/moment.ts";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { now } from "../parts/time.tsx";
import { wordsOf } from "../parts/tone.ts";
import { query, setQuery } from "../router.tsx";
import { formatFilter, NO_FILTER } from "../state/filter.ts";
import { allOf, flip, NOTHING } from "../state/selection.ts";
import { openTarget } from "./target-panel.tsx";
import type { ExecutionView } from "./view.ts";
import { waitWords } from "./waits.ts";

const SORTS: readonly SortKey[] = [
  "name",
  "status",
  "wave",
  "exit",
  "error",
  "began",
  "took",
  "launch",
];
/** While targets run, durations in words follow the clock this often. */
const TICK_MS = 5_000;

export function RunsTable({ view, runs }: { view: ExecutionView; runs: Runs }) {
  const rows = view.rows.value;
  const sort = query.value.get("sort") ?? "status";
  const descending = sort.startsWith("-");
  const key = SORTS.find((one) => one === sort.replace(/^-/, "")) ?? "status";
  const nowMs = nowOf(view);
  view.settled.value;
  const order = useMemo(
    () => [...sorted(rows, runs, key, descending, nowMs)],
    [rows, runs, key, descending, key === "took" ? nowMs : 0],
  );
  if (rows.length === 0) return <NoRows view={view} runs={runs} />;
  return (
    <Table
      label="Targets"
      columns={columnsOf(view, runs, nowMs)}
      rows={order}
      keyOf={(row) => runs.name[row]!}
      onOpen={(row) => openTarget(runs.name[row]!)}
      selection={choiceOf(view, runs)}
      sort={sort}
      onSort={(next) => setQuery({ sort: next === "status" ? null : next })}
      width={760}
    />
  );
}

/** The time until which running targets have run. */
function nowOf(view: ExecutionView): number {
  const past = view.past.value;
  if (past) return past.atMs;
  return view.hasEnded ? 0 : Math.floor(now.value.getTime() / TICK_MS) * TICK_MS;
}

function columnsOf(view: ExecutionView, runs: Runs, nowMs: number): Column<number>[] {
  const state = (row: number) => RUN_STATUSES[runs.status[row]!]!;
  const columns: Column<number>[] = [
    {
      name: "name",
      label: "Target",
      width: "minmax(140px, 2fr)",
      sort: "name",
      cell: (row) => (
        <b>
          <Text of={runs.name[row]!} />
        </b>
      ),
    },
    {
      name: "status",
      label: "State",
      width: "minmax(136px, 1fr)",
      sort: "status",
      cell: (row) => <Status state={state(row)} />,
    },
    {
      name: "error",
      label: "Why",
      width: "minmax(140px, 2fr)",
      sort: "error",
      cell: (row) => <Why view={view} runs={runs} row={row} state={state(row)} />,
    },
    {
      name: "exit",
      label: "Exit",
      width: "64px",
      sort: "exit",
      end: true,
      cell: (row) => runs.exitCode[row] ?? <None />,
    },
    {
      name: "took",
      label: "Ran for",
      width: "96px",
      sort: "took",
      end: true,
      cell: (row) => {
        const ms = runs.tookMs(row, nowMs);
        return Number.isNaN(ms) || ms < 0 ? <None /> : durationWords(ms);
      },
    },
  ];
  if (runs.waves > 1) {
    const wave: Column<number> = {
      name: "wave",
      label: "Wave",
      width: "72px",
      sort: "wave",
      end: true,
      cell: (row) => runs.wave[row]! + 1,
    };
    columns.splice(4, 0, wave);
  }
  return columns;
}

interface WhyProps {
  view: ExecutionView;
  runs: Runs;
  row: number;
  state: string;
}

function Why({ view, runs, row, state }: WhyProps) {
  const waits = runs.waitingFor[row];
  const parts: string[] = [];
  if (state === "waiting" && waits) {
    parts.push(`waits for ${waitWords(waits, view.execution.data.value)}`);
  }
  const error = runs.errorCode[row];
  if (error && error !== state) parts.push(wordsOf(error));
  const proof = runs.proof[row];
  if (proof) parts.push(wordsOf(proof));
  if (runs.attempt[row]! > 1) parts.push(`attempt ${runs.attempt[row]}`);
  return parts.length ? <span>{parts.join(", ")}</span> : <None />;
}

/** The selection of the page as the table chooses rows: kept in the URL. */
function choiceOf(view: ExecutionView, runs: Runs) {
  const chosen = new Set(view.selected.value);
  const rowOf = (name: string) => runs.rowNamed(name);
  const selection = view.selection.value;
  const filter = view.filter.value;
  const isAll = selection.all !== null && formatFilter(selection.all) === formatFilter(filter);
  return {
    isAll: { value: isAll },
    has: (name: string) => chosen.has(rowOf(name)),
    toggle: (name: string) => view.setSelection(flip(selection, runs.id[rowOf(name)]!)),
    chooseAll: () => view.setSelection(allOf(filter)),
    clear: () => view.setSelection(NOTHING),
  };
}

function NoRows({ view, runs }: { view: ExecutionView; runs: Runs }) {
  const filter = view.filter.value;
  const words = tooNarrow(filter, runs, view.labels.value);
  const drop = (word: string) => {
    const kept = filter.filter((term) => formatFilter([term]) !== word);
    setQuery({ q: formatFilter(kept) || null }, { replace: false });
  };
  return (
    <Empty why={`No target of ${runs.count.toLocaleString("en")} fits this filter.`}>
      <span class="row">
        {words.map((word) => (
          <button key={word} type="button" class="button small" onClick={() => drop(word)}>
            Without{" "}
            <code>
              <Text of={word} />
            </code>
          </button>
        ))}
        <button
          type="button"
          class="button small"
          onClick={() => setQuery({ q: formatFilter(NO_FILTER) || null }, { replace: false })}
        >
          Show all
        </button>
      </span>
    </Empty>
  );
}
