/** The runs as they were at any time of the past, from the entries of the log. */

import type { LogFrame, Results, Runs } from "../matrix/runs.ts";
import { isFinal, RUN_STATUSES } from "../matrix/states.ts";

const FINAL: ReadonlySet<unknown> = new Set(RUN_STATUSES.filter((_, index) => isFinal(index)));

export class Replay {
  readonly fromMs: number;
  readonly untilMs: number;
  private readonly runs: Runs;
  private readonly frames: readonly LogFrame[];
  /** The end of each run that has ended. */
  private readonly ends = new Map<number, LogFrame>();
  /** As they were when it was made: the runs go on. */
  private readonly results: Results;

  /** `frames`: all changes of states, in the order of the log. */
  constructor(runs: Runs, frames: readonly LogFrame[]) {
    this.runs = runs;
    this.frames = frames.filter(({ event, at }) => event === "status" && at !== null);
    for (const frame of this.frames) {
      const row = runs.rowOf(frame.data["target_run"] as number);
      if (row === undefined) continue;
      if (FINAL.has(frame.data["status"])) this.ends.set(row, frame);
      else this.ends.delete(row);
    }
    this.results = {
      exitCode: [...runs.exitCode],
      attempt: runs.attempt.slice(),
      proof: [...runs.proof],
    };
    this.fromMs = runs.createdAt;
    this.untilMs = this.frames.reduce((last, { at }) => Math.max(last, at!), runs.createdAt);
  }

  /**
   * Return the runs as they were at a time: their states, errors and times.
   *
   * Runs that had ended by then also have their exit codes and attempts. Several workers write,
   * each by its own clock, so a later entry may have an earlier time.
   */
  runsAt(ms: number): Runs {
    const past = this.runs.atLaunch();
    for (const frame of this.frames) if (frame.at! <= ms) past.apply(frame);
    for (const [row, frame] of this.ends) if (frame.at! <= ms) past.takeResult(row, this.results);
    return past;
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
