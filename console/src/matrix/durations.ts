/** How long runs took: a histogram, and the slowest ones. */
import type { Runs } from "./runs.ts";
import { isFinal, RUNNING } from "./states.ts";

export interface Bin {
  readonly fromMs: number;
  readonly toMs: number;
  readonly rows: readonly number[];
}

const STEPS_MS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000,
  300_000, 600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 43_200_000, 86_400_000,
];

/** The runs that have begun and ended, in at most `most` bins of one width. */
export function histogram(runs: Runs, most: number): Bin[] {
  const took: [number, number][] = [];
  for (let row = 0; row < runs.count; row++) {
    const ms = runs.tookMs(row, Number.NaN);
    if (isFinal(runs.status[row]!) && ms >= 0) took.push([ms, row]);
  }
  if (took.length === 0) return [];
  const longest = took.reduce((top, [ms]) => Math.max(top, ms), 0);
  const width = STEPS_MS.find((step) => longest / step < most) ?? Math.ceil(longest / most);
  const rows = Array.from({ length: Math.floor(longest / width) + 1 }, (): number[] => []);
  for (const [ms, row] of took) rows[Math.floor(ms / width)]!.push(row);
  return rows.map((found, n) => ({ fromMs: n * width, toMs: (n + 1) * width, rows: found }));
}

/** The rows that took longest, or that have been running for longest. */
export function slowest(runs: Runs, most: number, nowMs: number): number[] {
  const rows: number[] = [];
  for (let row = 0; row < runs.count; row++) {
    const status = runs.status[row]!;
    const begun = !Number.isNaN(runs.startedMs[row]!);
    if (begun && (status === RUNNING || isFinal(status))) rows.push(row);
  }
  return rows.sort((a, b) => runs.tookMs(b, nowMs) - runs.tookMs(a, nowMs)).slice(0, most);
}
