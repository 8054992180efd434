/**
 * The view of a log of any length: some forty rows, whatever its length is.
 *
 * There is no mode for following: at the end it follows what is added, elsewhere it stays.
 */
import { fillRow, type Looks, makeRow } from "./rows.ts";
import { RowRange } from "./scroll.ts";
import type { LineSource } from "./source.ts";

const ROW_PIXELS = 18;

export interface LogPlace {
  readonly atEnd: boolean;
  /** The first line that is seen. */
  readonly first: number;
  /** Lines that were added below since the end was seen. */
  readonly added: number;
}

export class LogView {
  onPlace: (place: LogPlace) => void = () => {};
  /** Called when lines are chosen by their numbers. */
  onChoose: (range: readonly [number, number]) => void = () => {};
  private readonly box: HTMLElement;
  private readonly source: LineSource;
  private readonly tall: HTMLDivElement;
  private readonly held: HTMLDivElement;
  private readonly range = new RowRange(ROW_PIXELS);
  private readonly rows: HTMLDivElement[] = [];
  private readonly shown = new WeakMap<HTMLDivElement, string>();
  private readonly observer: ResizeObserver;
  private looks: Looks;
  private isFound: (line: number) => boolean = () => false;
  private chosen: readonly [number, number] | null = null;
  private current = 0;
  private version = 0;
  private frame = 0;
  private follows = false;
  private seenTotal = 0;

  constructor(box: HTMLElement, source: LineSource, looks: Looks, { atEnd = false } = {}) {
    this.box = box;
    this.source = source;
    this.looks = looks;
    this.follows = atEnd;
    this.tall = box.appendChild(document.createElement("div"));
    this.tall.className = "log-tall";
    this.held = box.appendChild(document.createElement("div"));
    this.held.className = "log-rows";
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(box);
    box.addEventListener("scroll", this.onScroll, { passive: true });
    box.addEventListener("click", this.onClick);
    source.onChange = () => this.changed();
    this.changed();
  }

  close(): void {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
    this.box.removeEventListener("scroll", this.onScroll);
    this.box.removeEventListener("click", this.onClick);
    this.source.onChange = () => {};
    this.box.replaceChildren();
  }

  setLooks(looks: Looks): void {
    this.looks = looks;
    this.redraw();
  }

  /** Mark the lines that a search has found, and the one where it is. */
  setFound(isFound: (line: number) => boolean, current: number): void {
    this.isFound = isFound;
    this.current = current;
    this.redraw();
  }

  setChosen(range: readonly [number, number] | null): void {
    this.chosen = range;
    this.redraw();
  }

  /** Show a line in the upper third, unless it is seen. */
  to(line: number): void {
    this.follows = false;
    if (!this.range.shows(line - 1))
      this.box.scrollTop = this.range.to(line - 1 - Math.floor(this.range.view / ROW_PIXELS / 3));
    this.later();
  }

  toEnd(): void {
    this.follows = true;
    this.box.scrollTop = this.range.to(this.range.total);
    this.later();
  }

  private resized(): void {
    this.range.view = this.box.clientHeight;
    if (this.follows) this.toEnd();
    this.later();
  }

  private changed(): void {
    this.range.total = this.source.total;
    this.tall.style.blockSize = `${this.range.height}px`;
    if (this.follows) this.toEnd();
    this.later();
  }

  private redraw(): void {
    this.version += 1;
    this.later();
  }

  private readonly onScroll = (): void => {
    this.range.scrolled(this.box.scrollTop);
    this.follows = this.range.isAtEnd;
    this.later();
  };

  private readonly onClick = (event: MouseEvent): void => {
    const link = (event.target as Element).closest("a.log-number");
    if (!link || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const line = Number(link.textContent);
    const from = event.shiftKey && this.chosen ? this.chosen[0] : line;
    this.setChosen([Math.min(from, line), Math.max(from, line)]);
    this.onChoose(this.chosen!);
  };

  private later(): void {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  private draw(): void {
    const { first, count, at } = this.range.seen();
    while (this.rows.length < count) this.rows.push(this.held.appendChild(makeRow()));
    for (const [n, row] of this.rows.entries()) {
      row.hidden = n >= count;
      if (n < count) this.fill(row, first + n + 1);
    }
    this.held.style.transform = `translateY(${at - this.overhang(count)}px)`;
    if (this.follows) this.seenTotal = this.range.total;
    this.onPlace({
      atEnd: this.follows,
      first: first + 1,
      added: Math.max(0, this.range.total - Math.max(this.seenTotal, first + count)),
    });
  }

  /** Wrapped rows are higher than one line: share by share, so that the end can be reached. */
  private overhang(count: number): number {
    if (!this.looks.wrap) return 0;
    const visible = Math.min(this.range.view, count * ROW_PIXELS);
    return Math.max(0, this.held.offsetHeight - visible) * this.range.share;
  }

  private fill(row: HTMLDivElement, number: number): void {
    const line = this.source.line(number);
    const state = line ? `${line.text.length}${line.complete}` : "";
    const key = `${number} ${this.version} ${state}`;
    if (this.shown.get(row) === key) return;
    this.shown.set(row, key);
    fillRow(row, number, line, this.looks);
    const chosen = this.chosen;
    row.classList.toggle("log-chosen", !!chosen && number >= chosen[0] && number <= chosen[1]);
    row.classList.toggle("log-found", this.isFound(number));
    row.classList.toggle("log-current", number === this.current);
  }
}
