/** A panel beside a list, about one thing of it. Esc closes it. */
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Icon } from "./icon.tsx";

interface SidePanelProps {
  /** What it is about: another thing takes the focus. */
  about: string;
  /** Its name for screen readers. */
  label: string;
  title: ComponentChildren;
  actions?: ComponentChildren;
  onClose: () => void;
  children: ComponentChildren;
}

export function SidePanel({ about, label, title, actions, onClose, children }: SidePanelProps) {
  const box = useRef<HTMLElement>(null);
  // What in it has the focus; null once the person has gone on elsewhere.
  const held = useRef<Element | null>(null);
  useEffect(() => box.current?.focus(), [about]);
  // What had the focus may be gone with what it was about: the keyboard goes on from the panel.
  useEffect(() => {
    if (held.current === null || held.current.isConnected) return;
    held.current = null;
    if (document.activeElement === document.body) box.current?.focus({ preventScroll: true });
  });
  const onFocusOut = () => {
    const left = held.current;
    // Whether it was left or deleted is known once the script that did it has ended.
    queueMicrotask(() => {
      if (held.current === left && left?.isConnected) held.current = null;
    });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    onClose();
  };
  return (
    <aside
      ref={box}
      class="panel side"
      tabIndex={-1}
      aria-label={label}
      onFocusIn={(event) => {
        held.current = event.target as Element;
      }}
      onFocusOut={onFocusOut}
      onKeyDown={onKeyDown}
    >
      <header>
        <h2 class="cut">{title}</h2>
        <div class="actions">
          {actions}
          <button type="button" class="button small plain" aria-label="Close" onClick={onClose}>
            <Icon name="close" />
          </button>
        </div>
      </header>
      {children}
    </aside>
  );
}
