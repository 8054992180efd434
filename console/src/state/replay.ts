/** The states of all runs at any time of the past, from the entries of the log. */

import type { LogFrame, Runs } from "../matrix/runs.ts";
import { RUN_STATUSES, WAITING } from "../matrix/states.ts";

/** The changes of state in the order in which they were written. */
export class Replay {
  readonly fromMs: number;
  readonly untilMs: number;
  private readonly at: Float64Array;
  private readonly row: Uint32Array;
  private readonly status: Uint8Array;

  constructor(runs: Runs, frames: Iterable<LogFrame>) {
    const changes: [number, number, number][] = [];
    for (const { event, at, data } of frames) {
      if (event !== "status" || at === null) continue;
      const row = runs.rowOf(data["target_run"] as number);
      const status = RUN_STATUSES.indexOf(data["status"] as "failed");
      if (row !== undefined && status >= 0) changes.push([at, row, status]);
    }
    // Several workers write, each by its own clock.
    changes.sort(([a], [b]) => a - b);
    this.at = Float64Array.from(changes, ([at]) => at);
    this.row = Uint32Array.from(changes, ([, row]) => row);
    this.status = Uint8Array.from(changes, ([, , status]) => status);
    this.fromMs = runs.createdAt;
    this.untilMs = Math.max(runs.createdAt, ...changes.slice(-1).map(([at]) => at));
  }

  get changes(): number {
    return this.at.length;
  }

  /** Write the states as they were at a time into `status`. */
  statesAt(ms: number, status: Uint8Array): void {
    status.fill(WAITING);
    for (let n = 0; n < this.at.length && this.at[n]! <= ms; n++) {
      status[this.row[n]!] = this.status[n]!;
    }
  }
}

/** `02:41:07` or a full time, as the time of an execution; null if it is neither. */
export function instantOf(text: string, fromMs: number): number | null {
  const clock = /^(\d{1,2}):(\d{2})(?::(\d{2}))?$/.exec(text);
  if (!clock) {
    const at = Date.parse(text);
    return Number.isNaN(at) ? null : at;
  }
  const day = new Date(fromMs);
  day.setHours(Number(clock[1]), Number(clock[2]), Number(clock[3] ?? 0), 999);
  const onDay = day.getTime();
  return onDay < fromMs - 1_000 ? onDay + 86_400_000 : onDay;
}
