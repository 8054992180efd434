/** Chosen rows of a list: some of them, or all that the filter finds but some. */
import { computed, signal } from "@preact/signals";

interface Chosen {
  /** True: all of the filter are chosen, but those in `keys`. */
  all: boolean;
  keys: ReadonlySet<string>;
}
const NONE: Chosen = { all: false, keys: new Set() };

/** What a table needs of a choice; the execution page keeps its own in the URL. */
export interface Chooser {
  readonly isAll: { readonly value: boolean };
  has(key: string): boolean;
  toggle(key: string): void;
  chooseAll(): void;
  clear(): void;
}

export class Choice implements Chooser {
  private readonly chosen = signal<Chosen>(NONE);
  readonly isAll = computed(() => this.chosen.value.all);
  /** The chosen keys; if `isAll`, the exceptions. */
  readonly keys = computed(() => this.chosen.value.keys);

  has(key: string): boolean {
    const { all, keys } = this.chosen.value;
    return keys.has(key) !== all;
  }

  toggle(key: string): void {
    const { all, keys } = this.chosen.value;
    const next = new Set(keys);
    if (!next.delete(key)) next.add(key);
    this.chosen.value = { all, keys: next };
  }

  chooseAll(): void {
    this.chosen.value = { all: true, keys: new Set() };
  }

  clear(): void {
    this.chosen.value = NONE;
  }

  /** Return how many are chosen of so many that the filter finds. */
  count(total: number): number {
    const { all, keys } = this.chosen.value;
    return all ? Math.max(0, total - keys.size) : keys.size;
  }
}
