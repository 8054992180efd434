/** A selection: everything that a filter matches, minus exceptions; or single rows, picked. */
import { formatFilter, parseFilter, type Filter } from "./filter.ts";

export interface Selection {
  /** All rows that match are selected; null: none but the picked ones. */
  readonly all: Filter | null;
  /** Runs that are the other way round: left out of `all`, or picked without it. */
  readonly flipped: ReadonlySet<number>;
}

export const NOTHING: Selection = { all: null, flipped: new Set() };

/** Select everything that the filter matches. */
export const allOf = (filter: Filter): Selection => ({ all: filter, flipped: new Set() });

/** Select or leave out one run. */
export function flip(selection: Selection, run: number): Selection {
  const flipped = new Set(selection.flipped);
  if (!flipped.delete(run)) flipped.add(run);
  return { all: selection.all, flipped };
}

/** True if nothing can be selected by it. */
export const isEmpty = ({ all, flipped }: Selection): boolean => !all && flipped.size === 0;

/** `test` says whether a row matches the filter of the selection. */
export function isSelected(selection: Selection, run: number, matches: boolean): boolean {
  return (selection.all !== null && matches) !== selection.flipped.has(run);
}

/** `status:failed − 2`, as the bar of the selection shows it. */
export function describe(selection: Selection): string {
  const { all, flipped } = selection;
  if (!all) return "picked";
  const words = formatFilter(all) || "all";
  return flipped.size > 0 ? `${words} − ${flipped.size}` : words;
}

/** The parts of the address: `sel` is the filter (`*` for all), `flip` the runs. */
export function toParams(selection: Selection): Record<"sel" | "flip", string | null> {
  const { all, flipped } = selection;
  return {
    sel: all ? formatFilter(all) || "*" : null,
    flip: flipped.size > 0 ? packIds(flipped) : null,
  };
}

export function fromParams(sel: string | null, flip: string | null): Selection {
  return {
    all: sel === null ? null : sel === "*" ? [] : parseFilter(sel),
    flipped: new Set(flip === null ? [] : unpackIds(flip)),
  };
}

const BASE = 36;
/** More runs than any execution has: a made-up address must not fill the memory. */
const IDS_MAX = 100_000;

/** Ids as gaps and lengths in turn: runs of one execution follow each other, so it stays short. */
function packIds(ids: Iterable<number>): string {
  const parts: number[] = [];
  let next = 0;
  for (const id of [...ids].sort((a, b) => a - b)) {
    if (parts.length > 0 && id === next) parts[parts.length - 1]!++;
    else parts.push(id - next, 1);
    next = id + 1;
  }
  return parts.map((part) => part.toString(BASE)).join(".");
}

function unpackIds(text: string): number[] {
  const ids: number[] = [];
  const parts = text.split(".").map((part) => Number.parseInt(part, BASE));
  let next = 0;
  for (let n = 0; n + 1 < parts.length; n += 2) {
    next += parts[n]!;
    const end = next + parts[n + 1]!;
    if (!Number.isSafeInteger(end) || ids.length + parts[n + 1]! > IDS_MAX) return [];
    for (; next < end; next++) ids.push(next);
  }
  return ids;
}
