/** The runs of an execution, kept up to date: a snapshot, then the stream from its position. */
import type { StreamOptions } from "../api/stream.ts";
import type { Matrix } from "../api/types.ts";
import { nameOrder } from "../matrix/rows.ts";
import { type LogFrame, Runs } from "../matrix/runs.ts";
import { breathe, Gather, nextFrame, type Schedule } from "./gather.ts";

const TOO_FAR_BEHIND = 410;

type Failure = Parameters<NonNullable<StreamOptions["onEnd"]>>[0];

export interface Source {
  snapshot(): Promise<Matrix>;
  /** Follow the stream; the returned function ends it. */
  follow(options: Omit<StreamOptions, "url">): () => void;
  schedule?: Schedule;
  /** Lets the browser draw and answer between two long pieces of work. */
  rest?: () => Promise<void>;
}

export interface Viewer {
  /** New columns: at the beginning, and after the stream was too far behind. */
  onRuns(runs: Runs, labels: Matrix["labels"]): void;
  /** Rows that changed, once a frame; `frames` are the entries that changed them. */
  onChange(rows: ReadonlySet<number>, frames: readonly LogFrame[]): void;
  /** The execution has ended, and all of its entries were applied. */
  onEnd(): void;
  /** The snapshot or the stream was refused, and does not go on by itself. */
  onFailure(failure: unknown): void;
  onLive?(live: boolean): void;
}

/** Follow the runs of an execution until the returned function is called. */
export function followRuns(source: Source, viewer: Viewer): () => void {
  const session = new Session(source, viewer);
  void session.begin();
  return () => session.stop();
}

class Session {
  private readonly source: Source;
  private readonly viewer: Viewer;
  private readonly gather: Gather<LogFrame>;
  private readonly rest: () => Promise<void>;
  private runs: Runs | null = null;
  private unfollow: (() => void) | null = null;
  private stopped = false;
  /** True from a 410 until entries come again, so that it does not lead to a loop of snapshots. */
  private renewed = false;

  constructor(source: Source, viewer: Viewer) {
    this.source = source;
    this.viewer = viewer;
    this.rest = source.rest ?? breathe;
    this.gather = new Gather((frames) => this.apply(frames), source.schedule ?? nextFrame);
  }

  async begin(): Promise<void> {
    let matrix: Matrix;
    try {
      matrix = await this.source.snapshot();
    } catch (failure) {
      if (!this.stopped) this.viewer.onFailure(failure);
      return;
    }
    // Reading 10,000 rows and drawing them are two tasks, so that keys are answered in between.
    await this.rest();
    if (this.stopped) return;
    this.runs = new Runs(matrix);
    nameOrder(this.runs);
    await this.rest();
    if (this.stopped) return;
    this.viewer.onRuns(this.runs, matrix.labels);
    const live = this.viewer.onLive;
    this.unfollow = this.source.follow({
      after: String(matrix.seq),
      onEvent: (event) => {
        this.renewed = false;
        if (event.data) this.gather.push(frameOf(event));
        if (event.event === "end") this.finish();
      },
      onEnd: (failure) => void this.broken(failure),
      ...(live ? { onLive: (on: boolean) => live(on) } : {}),
    });
  }

  stop(): void {
    this.stopped = true;
    this.unfollow?.();
  }

  private finish(): void {
    this.unfollow?.();
    this.gather.flush();
    if (!this.stopped) this.viewer.onEnd();
  }

  private async broken(failure: Failure): Promise<void> {
    if (this.stopped) return;
    if (failure.status !== TOO_FAR_BEHIND || this.renewed) {
      this.viewer.onFailure(failure);
      return;
    }
    this.renewed = true;
    await this.begin();
  }

  private apply(frames: readonly LogFrame[]): void {
    const runs = this.runs;
    if (this.stopped || runs === null) return;
    const rows = new Set<number>();
    for (const frame of frames) {
      const row = runs.apply(frame);
      if (row >= 0) rows.add(row);
    }
    this.viewer.onChange(rows, frames);
  }
}

/** The entry of the log in an event of the stream. */
export function frameOf(event: { id?: string; event?: string; data: string }): LogFrame {
  const data = JSON.parse(event.data) as Record<string, unknown>;
  const at = typeof data["at"] === "string" ? Date.parse(data["at"]) : Date.now();
  return { seq: Number(event.id), event: event.event ?? "message", at, data };
}
