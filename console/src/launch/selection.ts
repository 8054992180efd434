/** A selection of targets as a person types it, in the URL, in the API and on the command line. */
import type { SelectionDraft } from "../api/types.ts";
import type { QueryChange } from "../paths.ts";

/** What is typed: lists are names with commas between them. */
export interface Picked {
  selector: string;
  groups: string;
  names: string;
  except: string;
}

/** The names in the URL: those of the command line's options. */
const PARAMETERS = { selector: "l", groups: "g", names: "t", except: "x" } as const;

export function pickedOf(query: URLSearchParams): Picked {
  const read = (name: string) => query.get(name) ?? "";
  return {
    selector: read(PARAMETERS.selector),
    groups: read(PARAMETERS.groups),
    names: read(PARAMETERS.names),
    except: read(PARAMETERS.except),
  };
}

export function pickedQuery(change: Partial<Picked>): QueryChange {
  const pairs = Object.entries(change) as [keyof Picked, string][];
  return Object.fromEntries(pairs.map(([field, text]) => [PARAMETERS[field], text]));
}

/** Return the items of a list with commas, each once. */
export function split(text: string): string[] {
  const items = text.split(",").map((item) => item.trim());
  return [...new Set(items.filter(Boolean))];
}

/** Return the selection for the API; null if nothing is selected. `alone`: exclusions are enough. */
export function selectionOf(picked: Picked, alone = false): SelectionDraft | null {
  const selection: SelectionDraft = {};
  const selector = picked.selector.trim();
  const [groups, ids, exclude] = [picked.groups, picked.names, picked.except].map(split);
  if (selector) selection.selector = selector;
  if (groups!.length) selection.groups = groups!;
  if (ids!.length) selection.ids = ids!;
  const nothing = Object.keys(selection).length === 0;
  if (exclude!.length) selection.exclude = exclude!;
  return nothing && !(alone && exclude!.length) ? null : selection;
}

/** Return the options of the command line for the same selection. */
export function selectionWords(picked: Picked): string[] {
  const words: string[] = [];
  if (picked.selector.trim()) words.push("-l", picked.selector.trim());
  for (const [option, list] of [
    ["-g", picked.groups],
    ["-t", picked.names],
    ["-x", picked.except],
  ] as const) {
    const items = split(list);
    if (items.length) words.push(option, items.join(","));
  }
  return words;
}

/** Return texts that complete the last item of a list: what stands before it stays. */
export function completedLists(text: string, options: readonly string[]): string[] {
  const start = text.lastIndexOf(",") + 1;
  const before = text.slice(0, start);
  const taken = new Set(split(before));
  return options.filter((option) => !taken.has(option)).map((option) => before + option);
}
