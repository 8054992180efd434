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
  useEffect(() => box.current?.focus(), [about]);
  // What had the focus in it may be gone with what it is about.
  useEffect(() => {
    if (document.activeElement === document.body) box.current?.focus({ preventScroll: true });
  }, [label]);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    onClose();
  };
  return (
    <aside ref={box} class="panel side" tabIndex={-1} aria-label={label} onKeyDown={onKeyDown}>
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
