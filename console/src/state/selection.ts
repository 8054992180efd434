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

/** The parts of the address: `sel` is the filter (`*` for all), `flip` the ids of runs. */
export function toParams(selection: Selection): Record<"sel" | "flip", string | null> {
  const { all, flipped } = selection;
  return {
    sel: all ? formatFilter(all) || "*" : null,
    flip: flipped.size > 0 ? [...flipped].sort((a, b) => a - b).join(".") : null,
  };
}

export function fromParams(sel: string | null, flip: string | null): Selection {
  const ids = (flip ?? "").split(".").filter((id) => /^[0-9]{1,15}$/.test(id));
  return {
    all: sel === null ? null : sel === "*" ? [] : parseFilter(sel),
    flipped: new Set(ids.map(Number)),
  };
}
