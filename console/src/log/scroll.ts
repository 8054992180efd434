/**
 * Rows of one height, as many as one likes, in an element that browsers can scroll.
 *
 * Chromium ends at 33.5 million pixels and Firefox at 17.9. Beyond HEIGHT_MAX, small moves are real
 * pixels and large ones are shares of the whole.
 */
export const HEIGHT_MAX = 8_000_000;

export interface SeenRows {
  /** The first row that is seen, from 0. */
  readonly first: number;
  readonly count: number;
  /** Where the first one is in the element, in pixels. */
  readonly at: number;
}

export class RowRange {
  total = 0;
  /** Height of the part that is seen, in pixels. */
  view = 0;
  readonly row: number;
  /** Pixels above the part that is seen, if the element had its real height. */
  private top = 0;
  private scrollTop = 0;

  constructor(row: number) {
    this.row = row;
  }

  /** Height of the element that is scrolled. */
  get height(): number {
    return Math.min(this.real, HEIGHT_MAX);
  }

  get isAtEnd(): boolean {
    return this.top >= this.most - this.row / 2;
  }

  /** The share of the whole that is above, from 0 to 1. */
  get share(): number {
    return this.most > 0 ? this.top / this.most : 0;
  }

  private get real(): number {
    return this.total * this.row;
  }

  private get most(): number {
    return Math.max(0, this.real - this.view);
  }

  private get scrollMost(): number {
    return Math.max(0, this.height - this.view);
  }

  /** The element was scrolled to here. */
  scrolled(scrollTop: number): void {
    const moved = scrollTop - this.scrollTop;
    const isEdge = scrollTop <= 0 || scrollTop >= this.scrollMost - 1;
    if (this.real <= HEIGHT_MAX) this.top = scrollTop;
    else if (!isEdge && Math.abs(moved) <= 3 * this.view) this.top += moved;
    else this.top = (Math.min(scrollTop, this.scrollMost) / this.scrollMost) * this.most;
    this.top = Math.min(Math.max(0, this.top), this.most);
    this.scrollTop = scrollTop;
  }

  /** Go to a row; return the scrollTop for it. */
  to(row: number): number {
    this.top = Math.min(Math.max(0, row * this.row), this.most);
    const share = this.most > 0 ? this.top / this.most : 0;
    this.scrollTop = this.real <= HEIGHT_MAX ? this.top : Math.round(share * this.scrollMost);
    return this.scrollTop;
  }

  /** Return true if a row is seen as a whole. */
  shows(row: number): boolean {
    return row * this.row >= this.top && (row + 1) * this.row <= this.top + this.view;
  }

  seen(): SeenRows {
    const first = Math.min(Math.floor(this.top / this.row), Math.max(0, this.total - 1));
    const count = Math.min(this.total - first, Math.ceil(this.view / this.row) + 1);
    return { first, count, at: this.scrollTop - (this.top - first * this.row) };
  }
}
