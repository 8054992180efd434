/** A part of a page with its heading and actions. */
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

interface PanelProps {
  title: ComponentChildren;
  actions?: ComponentChildren;
  /** The body has no padding: tables. */
  flush?: boolean;
  children: ComponentChildren;
}

export function Panel({ title, actions, flush = false, children }: PanelProps) {
  const id = useId();
  return (
    <section class="panel" aria-labelledby={id}>
      <header>
        <h2 id={id}>{title}</h2>
        {actions && <div class="actions">{actions}</div>}
      </header>
      <div class={flush ? "body flush" : "body"}>{children}</div>
    </section>
  );
}
