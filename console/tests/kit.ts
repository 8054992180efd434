/** Runs of an execution, and entries of its log, for tests. */
import type { Matrix, RunStatus } from "../src/api/types.ts";
import { type LogFrame, Runs } from "../src/matrix/runs.ts";

export function matrixAnswer(
  statuses: readonly RunStatus[],
  more: Partial<Matrix["columns"]> = {},
): Matrix {
  const each = <Value>(value: Value): Value[] => statuses.map(() => value);
  const columns: Matrix["columns"] = {
    id: statuses.map((_, n) => 1_000 + n),
    target: statuses.map((_, n) => String(n)),
    name: statuses.map((_, n) => `web-${n}`),
    status: [...statuses],
    waiting_for: each(null),
    attempt: each(1),
    wave: each(0),
    exit_code: each(null),
    error_code: each(null),
    cancel_proof: each(null),
    started_ms: each(null),
    finished_ms: each(null),
    ...more,
  };
  return { seq: 10, created_at: "2026-11-29T01:00:00.000Z", columns, labels: {} };
}

export const matrixOf = (...given: Parameters<typeof matrixAnswer>) =>
  new Runs(matrixAnswer(...given));

export function moved(seq: number, run: number, status: RunStatus, atMs = 0): LogFrame {
  const at = Date.parse("2026-11-29T01:00:00.000Z") + atMs;
  const error = status === "failed" ? { code: "nonzero_exit", message: "exit 1" } : null;
  return { seq, event: "status", at, data: { target_run: run, target: "1", status, error } };
}
