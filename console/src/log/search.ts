/** Searches in the output of an execution, read line by line as the server finds them. */
import { effect, signal } from "@preact/signals";
import { arrived, askRaw } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import { type FindSummary, type FoundLine, FoundLines, JsonLines } from "./find.ts";

export interface Wanted {
  readonly text: string;
  readonly pattern: boolean;
  readonly ignoreCase: boolean;
}

export interface Part {
  readonly execution: string;
  /** Name or id; "": all targets. */
  readonly target: string;
  readonly stream: "" | "stdout" | "stderr";
}

const LIMIT = 10_000;

/** One search; `found` grows as lines come, and `beat` tells so. */
export class Search {
  readonly wanted: Wanted;
  readonly found = new FoundLines();
  readonly beat = signal(0);
  readonly summary = signal<FindSummary | null>(null);
  readonly error = signal<RequestError | null>(null);
  /** All of it was searched, or it cannot be. */
  readonly isOver = signal(false);
  private readonly part: Part;
  private readonly request = new AbortController();

  constructor(part: Part, wanted: Wanted) {
    this.part = part;
    this.wanted = wanted;
  }

  stop(): void {
    this.request.abort();
    this.isOver.value = true;
  }

  /** Search all of it, also if the server ends a search before its end. */
  async runAll(): Promise<void> {
    let after: number | null = 0;
    while (after !== null && !this.request.signal.aborted) {
      this.summary.value = null;
      await this.run(after);
      const summary = this.summary.value as FindSummary | null;
      after = summary?.next ?? null;
    }
    this.isOver.value = true;
  }

  /** Wait until a line after this one is found, or the search is over. */
  async until(line: number): Promise<void> {
    await new Promise<void>((done) => {
      const stop = effect(() => {
        this.beat.value;
        if (!this.isOver.value && (this.found.numbers.at(-1) ?? 0) <= line) return;
        queueMicrotask(() => stop());
        done();
      });
    });
  }

  /** Search, or go on with a search that ended early. */
  async run(after = 0): Promise<void> {
    this.error.value = null;
    try {
      await this.read(after);
    } catch (failed) {
      if (this.request.signal.aborted) return;
      if (!(failed instanceof RequestError)) throw failed;
      this.error.value = failed;
    }
  }

  private async read(after: number): Promise<void> {
    const { text, pattern, ignoreCase } = this.wanted;
    const response = await askRaw("GET /executions/{id}/search", {
      path: { id: this.part.execution },
      query: {
        [pattern ? "pattern" : "q"]: text,
        ignore_case: ignoreCase,
        limit: LIMIT,
        after,
        target: this.part.target,
        stream: this.part.stream,
      },
      signal: this.request.signal,
    });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    const lines = new JsonLines();
    for (;;) {
      const { done, value } = await arrived(reader.read());
      if (done) return;
      for (const one of lines.feed(value)) this.take(one as FoundLine | FindSummary);
      this.beat.value += 1;
    }
  }

  private take(one: FoundLine | FindSummary): void {
    if ("complete" in one) this.summary.value = one;
    else this.found.add(one);
  }
}
