/** Forms with changes that were not sent: nothing leaves them without a question. */
import { signal } from "@preact/signals";

const changed = new Set<Node>();
/** What somebody wants to do that would lose changes; it waits for the answer. */
export const leaving = signal<(() => void) | null>(null);

/** Note that a form has changes that were not sent, or has none any more. */
export function setUnsaved(form: Node, unsaved: boolean): void {
  if (unsaved) changed.add(form);
  else changed.delete(form);
}

/** True if a form has such changes; `within`: only forms in this element. */
export function hasUnsaved(within?: Node): boolean {
  return [...changed].some((form) => !within || within.contains(form));
}

/** Do something that closes forms; ask first if changes would be lost. */
export function leave(work: () => void, within?: Node): void {
  if (hasUnsaved(within)) leaving.value = work;
  else work();
}

/** Go on with what waits and lose the changes, or stay. */
export function answerLeaving({ lose }: { lose: boolean }): void {
  const work = leaving.value;
  leaving.value = null;
  if (!lose) return;
  changed.clear();
  work?.();
}
