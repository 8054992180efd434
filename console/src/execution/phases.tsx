/** Where the time of a run went: queue, slot, connect, auth, exec, transfer, commit. */
import type { TimelinePhase } from "../api/types.ts";
import { durationWords } from "../parts/moment.ts";
import { now } from "../parts/time.tsx";

/** `auth` is the end of `connect`, and so is left out where widths are added up. */
const INSIDE = "auth";
/** A phase of no time can still be seen and pointed at. */
const LEAST_PERCENT = 0.5;

interface Shown {
  phase: TimelinePhase;
  ms: number;
}

function shownOf(phases: readonly TimelinePhase[]): Shown[] {
  return phases.map((phase) => ({
    phase,
    ms: phase.duration_ms ?? now.value.getTime() - Date.parse(phase.started_at),
  }));
}

/** The sum of all phases, in milliseconds. */
export function spentMs(phases: readonly TimelinePhase[]): number {
  return shownOf(phases)
    .filter(({ phase }) => phase.phase !== INSIDE)
    .reduce((sum, { ms }) => sum + ms, 0);
}

/** One bar of a run; `mostMs` is the length of the longest one beside it. */
export function PhaseStrip(props: { phases: readonly TimelinePhase[]; mostMs: number }) {
  const shown = shownOf(props.phases).filter(({ phase }) => phase.phase !== INSIDE);
  return (
    <span class="phases" role="img" aria-label={wordsOfPhases(props.phases)}>
      {shown.map(({ phase, ms }) => (
        <i
          key={`${phase.phase} ${phase.action} ${phase.attempt}`}
          class={`phase ${phase.phase}`}
          title={`${nameOf(phase)} ${durationWords(ms)}`}
          style={{ inlineSize: `${Math.max(LEAST_PERCENT, (100 * ms) / props.mostMs)}%` }}
        />
      ))}
    </span>
  );
}

/** The bar of a single run, with its words below it. */
export function PhaseBar({ phases }: { phases: readonly TimelinePhase[] }) {
  return (
    <div class="stack-tight">
      <PhaseStrip phases={phases} mostMs={Math.max(1, spentMs(phases))} />
      <ul class="row small">
        {shownOf(phases).map(({ phase, ms }) => (
          <li key={`${phase.phase} ${phase.action} ${phase.attempt}`}>
            <i class={`phase key ${phase.phase}`} /> {nameOf(phase)} {durationWords(ms)}
          </li>
        ))}
      </ul>
    </div>
  );
}

/** The colours of strips in their order, with what happens in their phases. */
const MEANINGS: readonly [phases: readonly string[], words: string][] = [
  [["queue", "slot"], "waits for its turn, a worker or a slot"],
  [["connect"], "connects and logs in"],
  [["exec"], "runs an action"],
  [["transfer"], "transfers a file"],
  [["commit"], "stores the result"],
];

/** What the colours of strips mean: those that occur. */
export function PhaseLegend({ phases }: { phases: readonly TimelinePhase[] }) {
  const seen = new Set<string>(phases.map(({ phase }) => phase));
  return (
    <ul class="row small legend" aria-label="Colours of the phases">
      {MEANINGS.filter(([names]) => names.some((name) => seen.has(name))).map(([names, words]) => (
        <li key={words}>
          <i class={`phase key ${names[0]}`} /> {words}
        </li>
      ))}
    </ul>
  );
}

function nameOf(phase: TimelinePhase): string {
  const action = phase.phase === "exec" || phase.phase === "transfer" ? phase.action : null;
  return action ? `${phase.phase} ${action}` : phase.phase;
}

function wordsOfPhases(phases: readonly TimelinePhase[]): string {
  return shownOf(phases)
    .map(({ phase, ms }) => `${nameOf(phase)} ${durationWords(ms)}`)
    .join(", ");
}
