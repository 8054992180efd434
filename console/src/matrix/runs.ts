/** All runs of one execution as columns, and how entries of the log change them. */
import type { Matrix } from "../api/types.ts";
import { isFinal, RUN_STATUSES, RUNNING, WAITING } from "./states.ts";

/** One entry of the log, as the stream or `/log` sends it. */
export interface LogFrame {
  readonly seq: number;
  readonly event: string;
  /** When it was written; null if the stream did not send it. */
  readonly at: number | null;
  readonly data: Readonly<Record<string, unknown>>;
}

/** What is known of the results of runs. */
export type Results = Pick<Runs, "exitCode" | "attempt" | "proof">;

const STATUS_INDEX: ReadonlyMap<string, number> = new Map(
  RUN_STATUSES.map((status, index) => [status, index]),
);
const MOST = 4_000_000_000;

export class Runs {
  readonly count: number;
  readonly createdAt: number;
  /** The last entry of the log that these columns include. */
  seq: number;
  readonly id: readonly number[];
  readonly target: readonly string[];
  readonly name: readonly string[];
  /** Indexes of RUN_STATUSES. */
  readonly status: Uint8Array;
  readonly wave: Uint16Array;
  readonly attempt: Uint16Array;
  readonly exitCode: (number | null)[];
  readonly errorCode: (string | null)[];
  readonly waitingFor: (string | null)[];
  readonly proof: (string | null)[];
  /** Milliseconds since the launch; NaN if it has not begun or not ended. */
  readonly startedMs: Float64Array;
  readonly finishedMs: Float64Array;
  /** The number of runs in each state, by its index. */
  readonly counts: Int32Array;
  readonly waves: number;
  private readonly matrix: Matrix;
  private readonly rows: ReadonlyMap<number, number>;
  private readonly named: ReadonlyMap<string, number>;

  constructor(matrix: Matrix) {
    const columns = matrix.columns;
    this.matrix = matrix;
    this.count = columns.id.length;
    this.createdAt = Date.parse(matrix.created_at);
    this.seq = matrix.seq;
    this.id = columns.id;
    this.target = columns.target;
    this.name = columns.name;
    this.status = Uint8Array.from(columns.status, (status) => STATUS_INDEX.get(status) ?? WAITING);
    this.wave = Uint16Array.from(columns.wave);
    this.attempt = Uint16Array.from(columns.attempt);
    this.exitCode = [...columns.exit_code];
    this.errorCode = [...columns.error_code];
    this.waitingFor = [...columns.waiting_for];
    this.proof = [...columns.cancel_proof];
    this.startedMs = Float64Array.from(columns.started_ms, (ms) => ms ?? Number.NaN);
    this.finishedMs = Float64Array.from(columns.finished_ms, (ms) => ms ?? Number.NaN);
    this.counts = tally(this.status);
    this.waves = 1 + this.wave.reduce((most, wave) => Math.max(most, wave), 0);
    this.rows = new Map(columns.id.map((id, row) => [id, row]));
    this.named = new Map(columns.name.map((name, row) => [name, row]));
  }

  /** The same runs before any of them began, without an entry of the log. */
  atLaunch(): Runs {
    const each = <Value>(value: Value): Value[] => this.id.map(() => value);
    const columns: Matrix["columns"] = {
      ...this.matrix.columns,
      status: each("waiting"),
      waiting_for: each(null),
      attempt: each(1),
      exit_code: each(null),
      error_code: each(null),
      cancel_proof: each(null),
      started_ms: each(null),
      finished_ms: each(null),
    };
    return new Runs({ ...this.matrix, seq: 0, columns });
  }

  /** The row of a run; undefined if it is of another execution. */
  rowOf(run: number): number | undefined {
    return this.rows.get(run);
  }

  /** The row of the target with this name; -1 if there is none. */
  rowNamed(name: string): number {
    return this.named.get(name) ?? -1;
  }

  /** How long the run took so far, in milliseconds; NaN if it has not begun. */
  tookMs(row: number, nowMs: number): number {
    const started = this.startedMs[row]!;
    const finished = this.finishedMs[row]!;
    return (Number.isNaN(finished) ? nowMs - this.createdAt : finished) - started;
  }

  /**
   * Apply an entry of the log. Return the row that it changed, or -1.
   *
   * Entries that the columns already include are ignored, so a stream that repeats some changes
   * nothing.
   */
  apply(frame: LogFrame): number {
    if (frame.seq <= this.seq || frame.seq > MOST) return -1;
    this.seq = frame.seq;
    const row = this.rows.get(frame.data["target_run"] as number);
    if (row === undefined) return -1;
    if (frame.event === "status") return this.move(row, frame);
    if (frame.event === "result") return this.conclude(row, frame.data);
    return -1;
  }

  /** Take what is known of the result of a run from other columns of the same runs. */
  takeResult(row: number, from: Results): void {
    this.exitCode[row] = from.exitCode[row]!;
    this.attempt[row] = from.attempt[row]!;
    this.proof[row] = from.proof[row]!;
  }

  private move(row: number, frame: LogFrame): number {
    const status = STATUS_INDEX.get(frame.data["status"] as string);
    if (status === undefined) return -1;
    this.counts[this.status[row]!]!--;
    this.counts[status]!++;
    this.status[row] = status;
    this.errorCode[row] = codeOf(frame.data["error"]);
    this.waitingFor[row] = (frame.data["waiting_for"] as string | undefined) ?? null;
    const proof = frame.data["cancel_proof"] as string | null | undefined;
    if (proof) this.proof[row] = proof;
    const at = frame.at === null ? Number.NaN : frame.at - this.createdAt;
    if (status === RUNNING) {
      this.startedMs[row] = at;
      this.finishedMs[row] = Number.NaN;
    } else if (isFinal(status)) {
      this.finishedMs[row] = at;
    }
    return row;
  }

  private conclude(row: number, data: LogFrame["data"]): number {
    this.exitCode[row] = data["exit_code"] as number | null;
    this.attempt[row] = data["attempt"] as number;
    const proof = data["cancel_proof"] as string | null;
    if (proof) this.proof[row] = proof;
    return row;
  }
}

/** The number of rows in each state, by its index. */
export function tally(status: Uint8Array, rows?: Uint32Array): Int32Array {
  const counts = new Int32Array(RUN_STATUSES.length);
  if (rows) for (const row of rows) counts[status[row]!]!++;
  else for (const index of status) counts[index]!++;
  return counts;
}

function codeOf(error: unknown): string | null {
  return error === null || typeof error !== "object" ? null : (error as { code: string }).code;
}
