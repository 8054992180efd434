/** The person's taste as a signal. */
import { signal } from "@preact/signals";
import { applyTaste, readTaste, storeTaste, type Taste } from "./taste-store.ts";

export const taste = signal<Taste>(readTaste());

/** Change a part of the taste, at once and for later visits. */
export function setTaste(part: Partial<Taste>): void {
  taste.value = { ...taste.value, ...part };
  applyTaste(taste.value);
  storeTaste(taste.value);
}
