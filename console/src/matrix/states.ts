/** The states of runs and executions: one of eight tones each, and a word. */
import type { ExecutionStatus, RunStatus } from "../api/types.ts";

export type Tone = "ok" | "live" | "wait" | "hold" | "warn" | "bad" | "lost" | "off";
export const TONES: readonly Tone[] = ["ok", "live", "bad", "warn", "lost", "hold", "off", "wait"];

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

const RUN_TONES: Readonly<Record<RunStatus, Tone>> = {
  succeeded: "ok",
  running: "live",
  waiting: "wait",
  failed: "bad",
  timeout: "warn",
  unreachable: "warn",
  lost: "lost",
  dead: "lost",
  blocked: "hold",
  cancelled: "off",
  skipped: "off",
};

const EXECUTION_TONES: Readonly<Record<ExecutionStatus, Tone>> = {
  pending_approval: "hold",
  queued: "wait",
  running: "live",
  paused: "hold",
  cancelling: "live",
  completed: "ok",
  partial: "warn",
  failed: "bad",
  timeout: "warn",
  cancelled: "off",
  rejected: "off",
};

/** The tone of each state of a run, by its index. */
export const TONE_OF: readonly Tone[] = RUN_STATUSES.map((status) => RUN_TONES[status]);

export const toneOfRun = (status: RunStatus): Tone => RUN_TONES[status];
export const toneOfExecution = (status: ExecutionStatus): Tone => EXECUTION_TONES[status];

/** `pending_approval` as people write it. */
export const wordOf = (status: string): string => status.replaceAll("_", " ");

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
