/**
 * Keys of the console: one table, which the handler, the help and the menus read.
 *
 * A combination is one key (`j`, `Ctrl-K`) or two in a row (`g n`). Keys without Ctrl can be
 * switched off, as they disturb speech control (WCAG 2.1.4).
 */
import { signal } from "@preact/signals";

export interface KeyBinding {
  keys: string;
  label: string;
  group: "Go" | "This page" | "Rows" | "Everywhere";
  run: () => void;
  /** Not offered in the palette: it needs the place where the focus is. */
  keyOnly?: boolean;
}

const sets = signal<readonly (readonly KeyBinding[])[]>([]);

/** Add bindings; the latest set wins. Returns what takes them away. */
export function bind(set: readonly KeyBinding[]): () => void {
  sets.value = [set, ...sets.value];
  return () => {
    sets.value = sets.value.filter((one) => one !== set);
  };
}

/** All bindings that hold now, each combination once. */
export function bindings(): KeyBinding[] {
  const found = new Map<string, KeyBinding>();
  for (const binding of sets.value.flat())
    if (!found.has(binding.keys)) found.set(binding.keys, binding);
  return [...found.values()];
}

/** What a keyboard event is called here; null for a modifier alone. */
export function nameOf(event: {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
}): string | null {
  if (["Control", "Meta", "Alt", "Shift"].includes(event.key)) return null;
  if (event.altKey) return null;
  if (event.ctrlKey || event.metaKey) return `Ctrl-${event.key.toUpperCase()}`;
  return event.key === "Escape" ? "Esc" : event.key;
}

const PAIR_MS = 1_500;

/** Finds what was pressed in a table, and remembers the first key of two. */
export class KeyReader {
  private first: { key: string; at: number } | null = null;

  /** Return the binding that a key completes; "wait" if it may be the first of two. */
  press(name: string, table: readonly KeyBinding[], at: number): KeyBinding | "wait" | null {
    const first = this.first !== null && at - this.first.at < PAIR_MS ? this.first.key : null;
    this.first = null;
    const wanted = first === null ? name : `${first} ${name}`;
    const found = table.find((binding) => binding.keys === wanted);
    if (found) return found;
    if (first === null && table.some((binding) => binding.keys.startsWith(`${name} `))) {
      this.first = { key: name, at };
      return "wait";
    }
    return null;
  }
}
