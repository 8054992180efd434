/** Where each cell lies on the canvas, and which cell an arrow key leads to. */

export const GAP = 1;
export const HEADING = 22;
const BETWEEN = 10;

/** A heading and the cells below it; positions run through all sections. */
export interface Section {
  readonly label: string;
  /** The position of the first cell. */
  readonly first: number;
  readonly count: number;
  /** The top of the first row of cells, in pixels. */
  readonly top: number;
}

export interface Layout {
  readonly size: number;
  readonly columns: number;
  readonly height: number;
  /** The row of the matrix at each position. */
  readonly order: Uint32Array;
  /** The position of each row; -1 if it is not shown. */
  readonly place: Int32Array;
  readonly sections: readonly Section[];
}

export interface Group {
  readonly label: string;
  readonly rows: ArrayLike<number>;
}

const SIZES = [18, 15, 12, 10, 8, 7, 6];
/** Cells are as large as the whole map stays below this height; the smallest ones scroll. */
const MAP_HEIGHT = 320;

/** The size of a cell in pixels: smaller, the more there are. */
export function cellSize(count: number, width: number): number {
  const fits = (size: number): boolean => {
    const columns = columnsOf(width, size);
    return Math.ceil(count / columns) * (size + GAP) <= MAP_HEIGHT;
  };
  return SIZES.find(fits) ?? SIZES.at(-1)!;
}

const columnsOf = (width: number, size: number): number =>
  Math.max(1, Math.floor((width + GAP) / (size + GAP)));

/** Lay out groups of rows below each other. A single group without a label gets no heading. */
export function layOut(groups: readonly Group[], total: number, width: number): Layout {
  const shown = groups.reduce((sum, group) => sum + group.rows.length, 0);
  const size = cellSize(shown, width);
  const columns = columnsOf(width, size);
  const order = new Uint32Array(shown);
  const place = new Int32Array(total).fill(-1);
  const sections: Section[] = [];
  let first = 0;
  let top = 0;
  for (const { label, rows } of groups) {
    if (rows.length === 0) continue;
    if (sections.length > 0) top += BETWEEN;
    if (label) top += HEADING;
    for (let n = 0; n < rows.length; n++) {
      const row = rows[n]!;
      order[first + n] = row;
      place[row] = first + n;
    }
    sections.push({ label, first, count: rows.length, top });
    top += Math.ceil(rows.length / columns) * (size + GAP);
    first += rows.length;
  }
  return { size, columns, height: Math.max(top, size), order, place, sections };
}

/** The left and top edge of the cell at a position. */
export function edge(layout: Layout, position: number): { x: number; y: number } {
  const section = sectionOf(layout, position);
  const inside = position - section.first;
  const step = layout.size + GAP;
  return {
    x: (inside % layout.columns) * step,
    y: section.top + Math.floor(inside / layout.columns) * step,
  };
}

/** The position of the cell at a point of the canvas; -1 between cells. */
export function cellAt(layout: Layout, x: number, y: number): number {
  const step = layout.size + GAP;
  const column = Math.floor(x / step);
  if (x < 0 || column >= layout.columns) return -1;
  for (const section of layout.sections) {
    const inside = Math.floor((y - section.top) / step) * layout.columns + column;
    if (y >= section.top && inside < section.count) return section.first + inside;
  }
  return -1;
}

export type Move =
  | "left"
  | "right"
  | "up"
  | "down"
  | "first"
  | "last"
  | "section-back"
  | "section-on";

export const MOVES: Readonly<Record<string, Move>> = {
  ArrowLeft: "left",
  ArrowRight: "right",
  ArrowUp: "up",
  ArrowDown: "down",
  Home: "first",
  End: "last",
  PageUp: "section-back",
  PageDown: "section-on",
};

/** The position that a key leads to. At an edge it stays. */
export function moved(layout: Layout, position: number, move: Move): number {
  const last = layout.order.length - 1;
  if (last < 0) return -1;
  if (position < 0) return move === "last" ? last : 0;
  switch (move) {
    case "left":
      return Math.max(0, position - 1);
    case "right":
      return Math.min(last, position + 1);
    case "first":
      return 0;
    case "last":
      return last;
    case "up":
    case "down":
      return vertical(layout, position, move === "up" ? -1 : 1);
    case "section-back":
    case "section-on":
      return toSection(layout, position, move === "section-back" ? -1 : 1);
  }
}

function vertical(layout: Layout, position: number, by: -1 | 1): number {
  const index = layout.sections.indexOf(sectionOf(layout, position));
  const section = layout.sections[index]!;
  const inside = position - section.first;
  const column = inside % layout.columns;
  const next = inside + by * layout.columns;
  if (next >= 0 && next < section.count) return section.first + next;
  const lastRow = Math.floor((section.count - 1) / layout.columns);
  if (by > 0 && Math.floor(inside / layout.columns) < lastRow) {
    return section.first + section.count - 1;
  }
  const neighbour = layout.sections[index + by];
  if (!neighbour) return position;
  if (by > 0) return neighbour.first + Math.min(column, neighbour.count - 1);
  const start = Math.floor((neighbour.count - 1) / layout.columns) * layout.columns;
  return neighbour.first + Math.min(start + column, neighbour.count - 1);
}

function toSection(layout: Layout, position: number, by: -1 | 1): number {
  const index = layout.sections.indexOf(sectionOf(layout, position));
  if (by < 0 && position > layout.sections[index]!.first) return layout.sections[index]!.first;
  const next = layout.sections[index + by];
  if (next) return next.first;
  return by < 0 ? 0 : layout.order.length - 1;
}

function sectionOf(layout: Layout, position: number): Section {
  let low = 0;
  let high = layout.sections.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (layout.sections[middle]!.first <= position) low = middle;
    else high = middle - 1;
  }
  return layout.sections[low]!;
}
