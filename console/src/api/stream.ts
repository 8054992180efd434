/**
 * Event streams, read with fetch: EventSource hides 401, 410 and 429.
 *
 * A stream resumes after a break at the place of its last event, and rests while the tab is hidden:
 * browsers allow six connections to a server, and a resumed stream misses nothing.
 */
import { createParser, type EventSourceMessage } from "eventsource-parser";
import { send } from "./ask.ts";
import { RequestError } from "./problem.ts";

const PAUSE_MS = [1_000, 2_000, 5_000, 15_000];
/** The server sends a line every 15 seconds. */
const SILENCE_MS = 45_000;

export interface StreamOptions {
  /** URL without a place. */
  url: string;
  /** Place to begin after: an event id. None: the server's default, mostly now. */
  after?: string | undefined;
  onEvent(event: EventSourceMessage): void;
  /** The stream cannot go on: refused, or events after the place were deleted (410). */
  onEnd?(error: RequestError): void;
  /** True while events come. */
  onLive?(live: boolean): void;
}

/** Follow a stream until the returned function is called. */
export function follow(options: StreamOptions): () => void {
  const stream = new Stream(options);
  stream.start();
  return () => stream.stop();
}

class Stream {
  private readonly options: StreamOptions;
  private place: string | undefined;
  private failures = 0;
  private ended = false;
  private connection: AbortController | null = null;
  private timer = 0;

  constructor(options: StreamOptions) {
    this.options = options;
    this.place = options.after;
  }

  start(): void {
    document.addEventListener("visibilitychange", this.onVisibility);
    if (!document.hidden) void this.run();
  }

  stop(): void {
    this.ended = true;
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.rest();
  }

  private readonly onVisibility = (): void => {
    if (document.hidden) this.rest();
    else if (this.connection === null) void this.run();
  };

  private rest(): void {
    clearTimeout(this.timer);
    this.connection?.abort();
    this.connection = null;
  }

  private async run(): Promise<void> {
    const connection = new AbortController();
    this.connection = connection;
    try {
      await this.read(connection);
    } catch (failed) {
      if (this.connection !== connection) return; // rests, or was stopped
      if (failed instanceof RequestError && !failed.isTemporary) {
        this.stop();
        this.options.onEnd?.(failed);
        return;
      }
      const asked = failed instanceof RequestError ? failed.retryAfter : null;
      this.again(asked === null ? null : asked * 1_000);
      return;
    }
    if (this.connection === connection) this.again(null);
  }

  private again(afterMs: number | null): void {
    this.options.onLive?.(false);
    this.connection = null;
    if (this.ended || document.hidden) return;
    const pause = PAUSE_MS[Math.min(this.failures++, PAUSE_MS.length - 1)]!;
    this.timer = setTimeout(() => void this.run(), afterMs ?? pause);
  }

  private async read(connection: AbortController): Promise<void> {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (this.place !== undefined) headers["Last-Event-ID"] = this.place;
    const response = await send(this.options.url, { headers, signal: connection.signal });
    const parser = createParser({
      // Also without an event: from its beginning, a break loses none.
      onId: (id) => {
        this.place = id;
      },
      onEvent: (event) => this.options.onEvent(event),
    });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    this.options.onLive?.(true);
    this.failures = 0;
    for (;;) {
      const silent = setTimeout(() => connection.abort(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(silent));
      if (done || this.connection !== connection) return;
      parser.feed(value);
    }
  }
}
