/** A button that opens a menu. What cannot be done now is there, disabled, and says why. */
import type { ComponentChildren } from "preact";
import { useId, useRef, useState } from "preact/hooks";
import { Icon } from "./icon.tsx";

export interface MenuItem {
  label: ComponentChildren;
  onChoose?: () => void;
  href?: string;
  /** Why it cannot be done now. */
  why?: string | null;
  /** The key that does the same. */
  shortcut?: string;
}

interface MenuProps {
  label: ComponentChildren;
  /** The name for screen readers, if the label is a drawing. */
  name?: string;
  items: readonly (MenuItem | null)[];
  kind?: string;
  /** A key opens it: `.` the actions of a page, `c` what can be copied. */
  shortcut?: "actions" | "copy";
}

/** `null` among the items draws a line. */
export function Menu({ label, name, items, kind = "", shortcut }: MenuProps) {
  const id = useId();
  const button = useRef<HTMLButtonElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const [open, setOpen] = useState(false);
  const onToggle = (event: { newState: string }) => {
    const opened = event.newState === "open";
    setOpen(opened);
    if (!opened) return;
    place(list.current!, button.current!);
    entries(list.current!)[0]?.focus();
  };
  const choose = (item: MenuItem) => {
    if (item.why) return;
    list.current!.hidePopover();
    button.current!.focus();
    item.onChoose?.();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const all = entries(list.current!);
    const at = all.indexOf(document.activeElement as HTMLElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Tab") list.current!.hidePopover();
    if (to === undefined) return;
    event.preventDefault();
    all[(to + all.length) % all.length]?.focus();
  };
  return (
    <>
      <button
        ref={button}
        type="button"
        class={`button ${kind}`}
        popovertarget={id}
        aria-haspopup="menu"
        aria-expanded={open}
        aria-label={name}
        data-actions={shortcut === "actions" ? "" : undefined}
        data-copy={shortcut === "copy" ? "" : undefined}
      >
        {label}
        <Icon name="down" />
      </button>
      <div
        ref={list}
        id={id}
        class="menu"
        popover="auto"
        role="menu"
        aria-label={name ?? (typeof label === "string" ? label : undefined)}
        onToggle={onToggle}
        onKeyDown={onKeyDown}
      >
        {open && items.map((item, index) => <Entry key={index} item={item} choose={choose} />)}
      </div>
    </>
  );
}

function Entry({ item, choose }: { item: MenuItem | null; choose: (item: MenuItem) => void }) {
  if (item === null) return <hr />;
  const inside = (
    <>
      <span>
        {item.label}
        {item.why && <span class="why">{item.why}</span>}
      </span>
      {item.shortcut && <kbd>{item.shortcut}</kbd>}
    </>
  );
  if (item.href && !item.why)
    return (
      <a href={item.href} role="menuitem" onClick={() => choose(item)}>
        {inside}
      </a>
    );
  return (
    <button
      type="button"
      role="menuitem"
      aria-disabled={item.why ? "true" : undefined}
      onClick={() => choose(item)}
    >
      {inside}
    </button>
  );
}

function entries(list: HTMLElement): HTMLElement[] {
  return [...list.querySelectorAll<HTMLElement>('[role="menuitem"]')];
}

/** Put the menu below its button, or above it if there is no room, inside the window. */
function place(menu: HTMLElement, button: HTMLElement): void {
  const from = button.getBoundingClientRect();
  // Its items are drawn after this event.
  requestAnimationFrame(() => {
    const { offsetWidth: width, offsetHeight: height } = menu;
    const below = from.bottom + 4 + height <= innerHeight || from.top < height;
    menu.style.top = `${Math.max(8, below ? from.bottom + 4 : from.top - height - 4)}px`;
    menu.style.left = `${Math.max(8, Math.min(from.left, innerWidth - width - 8))}px`;
    entries(menu)[0]?.focus();
  });
}
