/** The waves of an execution, each with its progress and the gate before it. */
import type { Execution } from "../api/types.ts";
import type { Runs } from "./runs.ts";
import { isFinal, RUN_STATUSES, WAITING } from "./states.ts";

export type WaveState = "ended" | "open" | "held" | "closed";

export interface Wave {
  readonly number: number;
  readonly total: number;
  readonly ended: number;
  readonly failed: number;
  readonly state: WaveState;
  /** What has to happen before it opens; null for the first one and without a gate. */
  readonly gate: string | null;
}

export interface GatePolicy {
  readonly confirm?: boolean;
  readonly check?: object | null;
}

const GOOD = RUN_STATUSES.indexOf("succeeded");
const LEFT_OUT = new Set(
  (["cancelled", "skipped"] as const).map((status) => RUN_STATUSES.indexOf(status)),
);
const GATES = new Set(["confirm", "max_fail", "check"]);

/**
 * Return the waves; an empty list if there is only one.
 *
 * `execution`: null for a time of the past, of which only the runs are known.
 */
export function wavesOf(runs: Runs, execution: Execution | null, gate: GatePolicy | null): Wave[] {
  if (runs.waves < 2) return [];
  const open = execution ? openOf(execution, runs) : begunWaves(runs);
  const held = GATES.has(execution?.waiting_on?.kind ?? "");
  const waves = Array.from({ length: runs.waves }, () => ({ total: 0, ended: 0, failed: 0 }));
  for (let row = 0; row < runs.count; row++) {
    const wave = waves[runs.wave[row]!]!;
    const status = runs.status[row]!;
    wave.total++;
    if (!isFinal(status)) continue;
    wave.ended++;
    if (status !== GOOD && !LEFT_OUT.has(status)) wave.failed++;
  }
  return waves.map((wave, index) => ({
    ...wave,
    number: index + 1,
    state: stateOf(wave, index, open, held),
    gate: index > 0 ? gateWord(gate) : null,
  }));
}

const openOf = ({ waves, finished_at }: Execution, runs: Runs): number =>
  waves?.open ?? (finished_at ? runs.waves : 1);

/** The number of waves in which a run has begun; one, before any has. */
const begunWaves = (runs: Runs): number =>
  runs.wave.reduce((most, wave, row) => {
    return runs.status[row] === WAITING ? most : Math.max(most, wave + 1);
  }, 1);

function stateOf(
  wave: { total: number; ended: number },
  index: number,
  open: number,
  held: boolean,
): WaveState {
  if (wave.ended === wave.total) return "ended";
  if (index < open) return "open";
  return index === open && held ? "held" : "closed";
}

function gateWord(gate: GatePolicy | null): string | null {
  if (!gate) return null;
  const parts = [gate.check ? "check" : "", gate.confirm ? "confirm" : ""].filter(Boolean);
  return parts.length > 0 ? parts.join(", then ") : null;
}
