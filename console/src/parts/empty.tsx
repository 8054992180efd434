/** Nothing to show: why, and what to do. */
import type { ComponentChildren } from "preact";
import { CopyButton } from "./copy.tsx";

/** A cell of a table without a value; a card leaves it out. */
export function None() {
  return <span class="dim none">–</span>;
}

interface CommandProps {
  text: string;
  intro?: string;
}

/** A command that begins as well as the page does, to copy. */
export function Command({ text, intro = "Or on the command line:" }: CommandProps) {
  return (
    <p class="row">
      <span class="dim">{intro}</span>
      <code>{text}</code>
      <CopyButton text={text} what="command" />
    </p>
  );
}

export function Empty({ why, children }: { why: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p>{why}</p>
      {children}
    </div>
  );
}
