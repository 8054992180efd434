/** Nothing to show: why, and what to do. */
import type { ComponentChildren } from "preact";

/** A cell of a table without a value; a card leaves it out. */
export function None() {
  return <span class="dim none">–</span>;
}

export function Empty({ why, children }: { why: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p>{why}</p>
      {children}
    </div>
  );
}
