/** The states of runs, and what can be retried of them. */
import type { ExecutionStatus, RunStatus } from "../api/types.ts";
import { type Tone, toneOf } from "../parts/tone.ts";

/** All states of a run; a run's state is stored as the index in this list. */
export const RUN_STATUSES = [
  "succeeded",
  "running",
  "failed",
  "timeout",
  "unreachable",
  "lost",
  "dead",
  "blocked",
  "cancelled",
  "skipped",
  "waiting",
] as const satisfies readonly RunStatus[];

export const WAITING = RUN_STATUSES.indexOf("waiting");
export const RUNNING = RUN_STATUSES.indexOf("running");

/** The tone of each state of a run, by its index. */
export const TONE_OF: readonly Tone[] = RUN_STATUSES.map(toneOf);

/** True if the run can no longer change. */
export const isFinal = (status: number): boolean => status !== WAITING && status !== RUNNING;

/** True if the execution has ended. */
export const hasEnded = (status: ExecutionStatus): boolean => ENDED.has(status);

const ENDED: ReadonlySet<ExecutionStatus> = new Set([
  "completed",
  "partial",
  "failed",
  "timeout",
  "cancelled",
  "rejected",
]);

/** The choices of a retry, and the states of runs that each covers. */
export const RETRY_CHOICES = {
  failed: ["failed"],
  unreachable: ["unreachable"],
  lost: ["lost"],
  not_started: ["skipped", "blocked", "cancelled", "timeout"],
  unsuccessful: RUN_STATUSES.filter((s) => !["succeeded", "running", "waiting"].includes(s)),
} as const;
export type RetryChoice = keyof typeof RETRY_CHOICES;
