/** What the page of one execution shows: the execution, its runs, the filter and the selection. */
import { computed, effect, type ReadonlySignal, signal } from "@preact/signals";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import { follow } from "../api/stream.ts";
import type { ExecutionDetail, Matrix, Specification } from "../api/types.ts";
import { urlOf } from "../api/url.ts";
import { labelsOf, matching } from "../matrix/rows.ts";
import type { Runs } from "../matrix/runs.ts";
import { hasEnded, RUN_STATUSES } from "../matrix/states.ts";
import { query, setQuery } from "../router.tsx";
import { parseFilter } from "../state/filter.ts";
import { followRuns } from "../state/live-runs.ts";
import type { Replay } from "../state/replay.ts";
import { Resource } from "../state/resource.ts";
import * as selections from "../state/selection.ts";

/** Tables and groups of cells follow the states this often; cells themselves once a frame. */
const SETTLE_MS = 500;
const RELOAD_MS = 1_000;
const RETRY_SECONDS = 5;
const REFRESH_SECONDS = 15;
/** A hidden tab asks this often for the state that its title and icon carry. */
const HIDDEN_MS = 60_000;

export class ExecutionView {
  readonly id: string;
  readonly execution: Resource<ExecutionDetail>;
  /** The runs as they are now: what is done with them is done with these. */
  readonly runs = signal<Runs | null>(null);
  readonly labels = signal<Matrix["labels"]>({});
  /** What the launch fixed, once it was read. */
  readonly spec = signal<Specification | null>(null);
  readonly failure = signal<RequestError | null>(null);
  /** When the snapshot is read again after a failure; null: not by itself. */
  readonly retryAt = signal<number | null>(null);
  /** The stream has broken, and is not there again yet. */
  readonly isBroken = signal(false);
  /** Grows once a frame in which states changed. */
  readonly beat = signal(0);
  /** Grows at most twice a second while states change. */
  readonly settled = signal(0);
  /** The time of the past that is shown, and the runs as they were; null: now. */
  readonly past = signal<{ atMs: number; runs: Runs } | null>(null);

  readonly filter = computed(() => parseFilter(query.value.get("q") ?? ""));
  readonly selection = computed(() =>
    selections.fromParams(query.value.get("sel"), query.value.get("flip")),
  );
  /** The label that cells are grouped by, and those that the filter names. */
  readonly wantedLabels: ReadonlySignal<string>;
  /** The runs that the page shows, filters, sorts and counts. */
  readonly shown = computed(() => this.past.value?.runs ?? this.runs.value);
  readonly counts = computed((): Record<string, number> => {
    this.beat.value;
    const counts = this.shown.value?.counts;
    const pairs = RUN_STATUSES.map((status, n) => [status, counts?.[n] ?? 0] as const);
    return Object.fromEntries(pairs.filter(([, count]) => count > 0));
  });
  /** The rows that the filter matches, in the order of launch. */
  readonly rows = computed((): Uint32Array => {
    this.settled.value;
    const runs = this.shown.value;
    if (!runs) return new Uint32Array();
    return matching(this.filter.value, runs, this.labels.value);
  });
  readonly selected = computed((): Uint32Array => {
    this.settled.value;
    const runs = this.shown.value;
    const selection = this.selection.value;
    if (!runs || selections.isEmpty(selection)) return new Uint32Array();
    const matches = new Set(selection.all ? matching(selection.all, runs, this.labels.value) : []);
    const all = Uint32Array.from(runs.id.keys());
    return all.filter((row) => selections.isSelected(selection, runs.id[row]!, matches.has(row)));
  });

  private readonly listeners = new Set<(rows: ReadonlySet<number> | null) => void>();
  private stopRuns: (() => void) | null = null;
  private finished = false;
  private stopped = false;
  private retrying = 0;
  private reading = 0;
  private settling = 0;
  private reloading = 0;
  private readonly disposers: (() => void)[] = [];

  constructor(id: string) {
    this.id = id;
    this.execution = new Resource(
      (signal) => ask("GET /executions/{id}", { path: { id }, signal }),
      REFRESH_SECONDS,
    );
    this.wantedLabels = computed(() => {
      const group = query.value.get("group") ?? "";
      const keys = [...labelsOf(this.filter.value)];
      const selected = this.selection.value.all;
      if (selected) keys.push(...labelsOf(selected));
      if (group.startsWith("label:")) keys.push(group.slice("label:".length));
      return [...new Set(keys)].sort().slice(0, 8).join(" ");
    });
  }

  start(): void {
    this.execution.start();
    void this.readSpecification();
    const hidden = setInterval(() => {
      if (document.hidden && !this.hasEnded) void this.execution.reload();
    }, HIDDEN_MS);
    this.disposers.push(() => clearInterval(hidden));
    // Another label needs another column: read the snapshot again, and follow from there.
    this.disposers.push(effect(() => this.follow(this.wantedLabels.value)));
  }

  stop(): void {
    this.execution.stop();
    for (const dispose of this.disposers) dispose();
    this.stopRuns?.();
    this.stopped = true;
    clearTimeout(this.retrying);
    clearTimeout(this.reading);
    clearTimeout(this.settling);
    clearTimeout(this.reloading);
  }

  /** Call a function with the rows that changed, once a frame; null: all may have changed. */
  onDraw(listener: (rows: ReadonlySet<number> | null) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  get hasEnded(): boolean {
    const execution = this.execution.data.value;
    return execution !== null && hasEnded(execution.status);
  }

  setSelection(selection: selections.Selection): void {
    setQuery(selections.toParams(selection));
  }

  /** Read the snapshot again, and follow from there. */
  restart(): void {
    this.follow(this.wantedLabels.value);
  }

  /** Show the runs as they were at a time of the past; null: as they are now. */
  show(past: { replay: Replay; atMs: number } | null): void {
    this.past.value = past && { atMs: past.atMs, runs: past.replay.runsAt(past.atMs) };
    this.draw(null);
    this.settled.value++;
  }

  /** Without it the page lacks gates of waves and a button, so a failure is no trouble. */
  private async readSpecification(): Promise<void> {
    try {
      this.spec.value = await ask("GET /executions/{id}/spec", { path: { id: this.id } });
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      if (failed.isTemporary && !this.stopped) {
        const ms = (failed.retryAfter ?? RETRY_SECONDS) * 1_000;
        this.reading = window.setTimeout(() => void this.readSpecification(), ms);
      }
    }
  }

  private follow(labels: string): void {
    this.stopRuns?.();
    clearTimeout(this.retrying);
    const path = { id: this.id };
    this.stopRuns = followRuns(
      {
        snapshot: () =>
          ask("GET /executions/{id}/matrix", {
            path,
            ...(labels ? { query: { label: labels.split(" ") } } : {}),
          }),
        follow: (options) =>
          follow({
            ...options,
            url: urlOf("/executions/{id}/events", path, { kinds: "status,result" }),
          }),
      },
      {
        onRuns: (runs, columns) => {
          this.labels.value = columns;
          this.runs.value = runs;
          this.failure.value = null;
          this.draw(null);
        },
        onChange: (rows, frames) => {
          if (!this.past.value) this.draw(rows);
          this.settleSoon();
          if (frames.some((frame) => frame.data["execution"] !== undefined)) this.reloadSoon();
        },
        onEnd: () => void this.finish(),
        onFailure: (failure) => {
          if (!(failure instanceof RequestError)) throw failure;
          this.failure.value = failure;
          this.retryAt.value = null;
          if (!failure.isTemporary) return;
          const ms = (failure.retryAfter ?? RETRY_SECONDS) * 1_000;
          this.retryAt.value = Date.now() + ms;
          this.retrying = window.setTimeout(() => this.restart(), ms);
        },
        onLive: (live) => {
          this.isBroken.value = !live;
        },
      },
    );
  }

  /** A run that had ended before its cancel reached it has its proof only in the columns. */
  private async finish(): Promise<void> {
    await this.execution.reload();
    if (this.finished || this.execution.data.value?.status !== "cancelled") return;
    this.finished = true;
    this.restart();
  }

  private draw(rows: ReadonlySet<number> | null): void {
    this.beat.value++;
    for (const listener of this.listeners) listener(rows);
  }

  private settleSoon(): void {
    if (this.settling) return;
    this.settling = window.setTimeout(() => {
      this.settling = 0;
      this.settled.value++;
    }, SETTLE_MS);
  }

  private reloadSoon(): void {
    if (this.reloading) return;
    this.reloading = window.setTimeout(() => {
      this.reloading = 0;
      void this.execution.reload();
    }, RELOAD_MS);
  }
}
