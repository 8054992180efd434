/**
 * Lines by number, fetched in blocks as they are seen; a bounded number of blocks is kept.
 *
 * The last line may go on and lines are added while the execution runs: `refresh` asks for the end
 * again, and blocks that were not complete are fetched again when they are seen. What cannot be
 * fetched now is asked for again soon.
 */
import { RequestError } from "../api/problem.ts";

export interface OutputLine {
  readonly line: number;
  readonly seq: number;
  readonly at: string;
  readonly target: string;
  readonly stream: string;
  readonly text: string;
  readonly complete: boolean;
  readonly cut: boolean;
  readonly dropped: number | null;
}

/** The text of a line, or what is missing in its place. */
export const textOfLine = ({ text, dropped }: Pick<OutputLine, "text" | "dropped">): string =>
  dropped === null ? text : droppedWords(dropped);

export const droppedWords = (bytes: number): string =>
  `${bytes.toLocaleString("en")} bytes were not kept`;

export interface LineAnswer {
  readonly from: number;
  readonly lines: readonly OutputLine[];
  readonly next: number | null;
  readonly total: number;
  /** The position of the log that `total` is of. */
  readonly seq: number;
}

/** Asks for lines from a number on; a negative one counts from the end. */
export type FetchLines = (from: number, count: number, signal: AbortSignal) => Promise<LineAnswer>;

export const BLOCK_LINES = 500;
export const BLOCKS_MAX = 40;
/** A block is asked for again after this time at the earliest. */
const AGAIN_MS = 2_000;
/** After a failure that may pass, all is asked for again after this time. */
const RETRY_MS = 5_000;

interface Block {
  lines: OutputLine[];
  request: AbortController | null;
  /** When it was asked for last; lines that go on are asked for again some time later. */
  askedAt: number;
}

export class LineSource {
  total = 0;
  /** The position of the log that was read up to; null before the first answer. */
  seq: number | null = null;
  /** True while the output may grow. */
  isLive = false;
  /** Called when lines or the total have changed. */
  onChange: () => void = () => {};
  onError: (failed: unknown) => void = () => {};
  /** Called when the end was read. */
  onRead: () => void = () => {};
  private readonly fetch: FetchLines;
  private readonly blocks = new Map<number, Block>();
  private readonly tail = new AbortController();
  private reading: Promise<void> | null = null;
  /** Lines may have come since the end was asked for. */
  private isBehind = false;
  private retrying: ReturnType<typeof setTimeout> | undefined;
  private closed = false;

  constructor(fetch: FetchLines) {
    this.fetch = fetch;
  }

  /** Return line `number`, from 1, or undefined if it is being fetched. */
  line(number: number): OutputLine | undefined {
    const index = Math.floor((number - 1) / BLOCK_LINES);
    const block = this.blocks.get(index);
    if (block) {
      this.blocks.delete(index); // the least recently used one comes first
      this.blocks.set(index, block);
    }
    const place = number - 1 - index * BLOCK_LINES;
    const known = block?.lines[place];
    if (!known && number <= this.total) this.load(index, block?.lines.length ?? 0);
    else if (known && !known.complete && this.isLive) this.load(index, place);
    return known;
  }

  /** Ask how many lines there are now, with the last ones. */
  refresh(): Promise<void> {
    this.isBehind = true;
    return this.read();
  }

  /** Read the end; what is being read already will do. */
  read(): Promise<void> {
    this.reading ??= this.readEnd().finally(() => {
      this.reading = null;
    });
    return this.reading;
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.retrying);
    this.tail.abort();
    for (const block of this.blocks.values()) block.request?.abort();
  }

  private async readEnd(): Promise<void> {
    clearTimeout(this.retrying);
    do {
      this.isBehind = false;
      try {
        const answer = await this.fetch(-100, 100, this.tail.signal);
        if (this.closed) return;
        this.take(answer);
        this.onRead();
      } catch (failed) {
        this.fail(failed);
        return;
      }
    } while (this.isBehind);
  }

  private fail(failed: unknown): void {
    if (this.closed) return;
    this.onError(failed);
    if (!(failed instanceof RequestError && failed.isTemporary)) return;
    clearTimeout(this.retrying);
    const ms = failed.retryAfter === null ? RETRY_MS : failed.retryAfter * 1_000;
    this.retrying = setTimeout(() => void this.refresh(), ms);
  }

  private load(index: number, place: number): void {
    const block = this.block(index);
    if (block.request || Date.now() - block.askedAt < AGAIN_MS) return;
    const request = new AbortController();
    block.request = request;
    block.askedAt = Date.now();
    const from = index * BLOCK_LINES + 1 + place;
    this.fetch(from, BLOCK_LINES - place, request.signal).then(
      (answer) => {
        block.request = null;
        if (answer.next !== null && answer.next < from + BLOCK_LINES - place) block.askedAt = 0;
        if (!this.closed) this.take(answer);
      },
      (failed: unknown) => {
        block.request = null;
        if (!request.signal.aborted) this.fail(failed);
      },
    );
  }

  private block(index: number): Block {
    let block = this.blocks.get(index);
    if (!block) {
      block = { lines: [], request: null, askedAt: 0 };
      this.blocks.set(index, block);
      for (const [old, { request }] of this.blocks) {
        if (this.blocks.size <= BLOCKS_MAX) break;
        if (old === index) continue;
        request?.abort();
        this.blocks.delete(old);
      }
    }
    return block;
  }

  private take(answer: LineAnswer): void {
    this.total = Math.max(this.total, answer.total);
    this.seq = Math.max(this.seq ?? 0, answer.seq);
    for (const line of answer.lines) {
      const index = Math.floor((line.line - 1) / BLOCK_LINES);
      const place = line.line - 1 - index * BLOCK_LINES;
      const block = this.block(index);
      // Only without a gap: what is missing before it is asked for when it is seen.
      if (place <= block.lines.length) block.lines[place] = line;
    }
    this.onChange();
  }
}
