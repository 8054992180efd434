/** The tab Timeline: how long targets took, and where the slowest ones lost their time. */
import { ask } from "../api/ask.ts";
import type { TimelinePhase } from "../api/types.ts";
import { histogram, slowest } from "../matrix/durations.ts";
import { spanText } from "../matrix/rows.ts";
import type { Runs } from "../matrix/runs.ts";
import { RUN_STATUSES } from "../matrix/states.ts";
import { type Bar, Bars } from "../parts/bars.tsx";
import { Empty } from "../parts/empty.tsx";
import { durationWords } from "../parts/moment.ts";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { wordsOf, worstFirst } from "../parts/tone.ts";
import { setQuery } from "../router.tsx";
import { formatFilter, toggled, valuesOf } from "../state/filter.ts";
import { useResource } from "../state/resource.ts";
import { PhaseLegend, PhaseStrip, spentMs } from "./phases.tsx";
import { openTarget } from "./target-panel.tsx";
import type { ExecutionView } from "./view.ts";

const SLOWEST = 50;
/** Columns are buttons of at least 24 pixels, on a phone too. */
const BINS = 24;
const BINS_NARROW = 12;
const NARROW = 700;
const HISTOGRAM_HEIGHT = 120;

export function TimelineTab({ view, runs }: { view: ExecutionView; runs: Runs }) {
  view.settled.value;
  const bins = histogram(runs, innerWidth < NARROW ? BINS_NARROW : BINS);
  if (bins.length === 0) return <Empty why="No target has ended yet." />;
  const bars = bins.map((bin): Bar => {
    const parts: Record<string, number> = {};
    for (const row of bin.rows) {
      const state = RUN_STATUSES[runs.status[row]!]!;
      parts[state] = (parts[state] ?? 0) + 1;
    }
    const worst = worstFirst(parts);
    const words = worst.map(([state, count]) => `${count} ${wordsOf(state)}`).join(", ");
    const span = `${durationWords(bin.fromMs)} to ${durationWords(bin.toMs)}`;
    return {
      label: `${span}: ${words || "none"}`,
      parts: Object.fromEntries(worst.toReversed()),
      onChoose: () => {
        const filter = toggled(view.filter.value, "took", spanText(bin.fromMs, bin.toMs));
        setQuery({ q: formatFilter(filter) || null }, { replace: false });
      },
    };
  });
  const last = bins.at(-1)!;
  const spans = valuesOf(view.filter.value, "took");
  return (
    <div class="stack">
      <Panel title="How long targets ran">
        <div class="wide-bars">
          <Bars label="Durations" bars={bars} height={HISTOGRAM_HEIGHT} />
        </div>
        <p class="row small dim ends">
          <span>0</span>
          <span>{durationWords(last.toMs)}</span>
        </p>
        <p class="row small">
          <span class="dim">Select a column to filter by its durations.</span>
          {spans.length > 0 && (
            <button
              type="button"
              class="button small"
              onClick={() => setQuery({ tab: "targets" }, { replace: false })}
            >
              Show the {view.rows.value.length.toLocaleString("en")} of{" "}
              {spans.map((span) => `took:${span}`).join(" ")}
            </button>
          )}
        </p>
      </Panel>
      {!view.past.value && <Slowest view={view} runs={runs} />}
    </div>
  );
}

function Slowest({ view, runs }: { view: ExecutionView; runs: Runs }) {
  const rows = slowest(runs, SLOWEST, Date.now());
  const ids = rows.map((row) => runs.target[row]!);
  const phases = useResource(
    async (signal) => {
      const answer = await ask("GET /executions/{id}/timeline", {
        path: { id: view.id },
        query: { target: ids, limit: SLOWEST },
        signal,
      });
      return Map.groupBy(answer.phases, (phase) => phase.target_run);
    },
    [view.id, ids.join()],
  );
  return (
    <Panel title={`The slowest ${rows.length}`} flush>
      <Loaded resource={phases} what="phases">
        {(byRun) => <SlowRows runs={runs} rows={rows} byRun={byRun} />}
      </Loaded>
    </Panel>
  );
}

interface SlowRowsProps {
  runs: Runs;
  rows: readonly number[];
  byRun: Map<number, TimelinePhase[]>;
}

function SlowRows({ runs, rows, byRun }: SlowRowsProps) {
  const of = (row: number) => byRun.get(runs.id[row]!) ?? [];
  const mostMs = Math.max(1, ...rows.map((row) => spentMs(of(row))));
  return (
    <>
      <div class="slow-head small">
        <PhaseLegend phases={[...byRun.values()].flat()} />
        <p class="dim">Bars begin at the launch. The number is how long the target itself ran.</p>
      </div>
      <ul class="slow">
        {rows.map((row) => (
          <li key={row}>
            <button type="button" class="slow-row" onClick={() => openTarget(runs.name[row]!)}>
              <span class="cut">
                <Status state={RUN_STATUSES[runs.status[row]!]!} label="" />{" "}
                <Text of={runs.name[row]!} />
              </span>
              <PhaseStrip phases={of(row)} mostMs={mostMs} />
              <span class="end">{durationWords(runs.tookMs(row, Date.now()))}</span>
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}
