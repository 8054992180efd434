/** What a page shows of the API: loaded, kept fresh while it is seen, kept when a reload fails. */
import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { RequestError } from "../api/problem.ts";

const RETRY_SECONDS = 5;

/** A thing that is loaded. */
export class Resource<T> {
  readonly data = signal<T | null>(null);
  readonly error = signal<RequestError | null>(null);
  readonly loading = signal(false);
  /** When `data` came. */
  readonly at = signal<Date | null>(null);
  /** When it is tried again after a failure; null: not by itself. */
  readonly retryAt = signal<number | null>(null);

  private readonly fetch: (signal: AbortSignal) => Promise<T>;
  private everyMs: number | null;
  private request: AbortController | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private open = false;

  constructor(fetch: (signal: AbortSignal) => Promise<T>, everySeconds: number | null = null) {
    this.fetch = fetch;
    this.everyMs = millisecondsOf(everySeconds);
  }

  /** Load it, and go on as long as the page is seen, until `stop`. */
  start(): void {
    this.open = true;
    document.addEventListener("visibilitychange", this.onVisibility);
    void this.reload();
  }

  stop(): void {
    this.open = false;
    document.removeEventListener("visibilitychange", this.onVisibility);
    clearTimeout(this.timer);
    this.request?.abort();
  }

  /** Load it so often from now on, beginning now if that is another period; null: once more. */
  setPeriod(everySeconds: number | null): void {
    const everyMs = millisecondsOf(everySeconds);
    if (everyMs === this.everyMs) return;
    this.everyMs = everyMs;
    void this.reload();
  }

  /** Load it now. The last data stays if that fails. */
  readonly reload = async (): Promise<void> => {
    clearTimeout(this.timer);
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    this.loading.value = true;
    try {
      const data = await this.fetch(request.signal);
      if (request.signal.aborted) return;
      this.data.value = data;
      this.at.value = new Date();
      this.error.value = null;
      this.retryAt.value = null;
      if (this.everyMs !== null) this.later(this.everyMs);
    } catch (failed) {
      if (request.signal.aborted) return;
      this.fail(failed);
    } finally {
      if (this.request === request) this.loading.value = false;
    }
  };

  private fail(failed: unknown): void {
    if (!(failed instanceof RequestError)) throw failed;
    this.error.value = failed;
    this.retryAt.value = null;
    if (!failed.isTemporary) return;
    const ms = (failed.retryAfter ?? RETRY_SECONDS) * 1_000;
    this.retryAt.value = Date.now() + ms;
    this.later(ms);
  }

  private later(ms: number): void {
    clearTimeout(this.timer);
    if (this.open && !document.hidden) this.timer = setTimeout(this.reload, ms);
  }

  private readonly onVisibility = (): void => {
    if (document.hidden) clearTimeout(this.timer);
    else if (this.everyMs !== null || this.error.value?.isTemporary) void this.reload();
  };
}

const millisecondsOf = (seconds: number | null): number | null =>
  seconds === null ? null : seconds * 1_000;

/**
 * Return a resource for as long as the component is shown; another one if `keys` change.
 *
 * If only `everySeconds` changes, as when something ends, it stays and its data is loaded again.
 */
export function useResource<T>(
  fetch: (signal: AbortSignal) => Promise<T>,
  keys: readonly unknown[],
  everySeconds: number | null = null,
): Resource<T> {
  const resource = useMemo(() => new Resource(fetch, everySeconds), keys);
  useEffect(() => {
    resource.start();
    return () => resource.stop();
  }, [resource]);
  useEffect(() => resource.setPeriod(everySeconds), [resource, everySeconds]);
  return resource;
}
