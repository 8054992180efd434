/** The keyboard of the console: its handler, the keys of every page, the help. */
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { go, path } from "../router.tsx";
import { bind, bindings, type KeyBinding, KeyReader, nameOf } from "../state/keys.ts";
import { places } from "../state/rights.ts";
import { setTaste, taste } from "../state/taste.ts";
import { Dialog } from "./dialog.tsx";

export const helpOpen = signal(false);
export const paletteOpen = signal(false);

/** Bind keys as long as the component is shown; again if `deps` change. */
export function useKeys(set: () => readonly KeyBinding[], deps: readonly unknown[]): void {
  useEffect(() => bind(set()), deps as unknown[]);
}

/** Keys that hold on every page. */
const COMMON: readonly KeyBinding[] = [
  {
    keys: "Ctrl-K",
    label: "Go to anything",
    group: "Everywhere",
    keyOnly: true,
    run: () => {
      paletteOpen.value = true;
    },
  },
  {
    keys: "?",
    label: "Show the keyboard shortcuts",
    group: "Everywhere",
    run: () => {
      helpOpen.value = true;
    },
  },
  { keys: "Esc", label: "Up, or leave a field", group: "Everywhere", keyOnly: true, run: up },
  { keys: "/", label: "Filter or find", group: "This page", run: () => focusOn("[data-filter]") },
  { keys: ".", label: "Actions", group: "This page", run: () => press("[data-actions]") },
  { keys: "c", label: "Copy", group: "This page", run: () => press("[data-copy]") },
  { keys: "j", label: "Next row", group: "Rows", keyOnly: true, run: () => row("ArrowDown") },
  { keys: "k", label: "Previous row", group: "Rows", keyOnly: true, run: () => row("ArrowUp") },
  { keys: "Enter", label: "Open the row", group: "Rows", keyOnly: true, run: () => row("Enter") },
  { keys: "x", label: "Select the row", group: "Rows", keyOnly: true, run: () => row(" ") },
];

/** Keys of the places that the person may go to. */
export function placeKeys(): readonly KeyBinding[] {
  return places().map((entry) => ({
    keys: `g ${entry.key}`,
    label: entry.label,
    group: "Go" as const,
    run: () => go(entry.to),
  }));
}

const reader = new KeyReader();

/** Listen to the keyboard, as long as the console is there. */
export function startKeyboard(): void {
  bind(COMMON);
  document.addEventListener("keydown", onKeyDown);
}

function onKeyDown(event: KeyboardEvent): void {
  const name = nameOf(event);
  if (name === null || event.defaultPrevented) return;
  const single = !name.startsWith("Ctrl-");
  if (single && (taste.value.singleKeys === "off" || isTyping(event.target))) {
    if (name === "Esc" && event.target instanceof HTMLElement) event.target.blur();
    return;
  }
  // A layer has its own keys.
  if (document.querySelector("dialog[open], [popover]:popover-open")) return;
  if (name === "Enter" && isControl(event.target)) return;
  const found = reader.press(name, bindings(), event.timeStamp);
  if (found === null) return;
  event.preventDefault();
  if (found !== "wait") found.run();
}

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof Element && target.matches("input:not([type=checkbox]), textarea, select")
  );
}

function isControl(target: EventTarget | null): boolean {
  return target instanceof Element && target.matches("a, button, input, summary, [role=tab]");
}

function focusOn(selector: string): void {
  document.querySelector<HTMLElement>(selector)?.focus();
}

function press(selector: string): void {
  const button = document.querySelector<HTMLElement>(selector);
  button?.focus();
  button?.click();
}

/** Give a key to the row that has the focus, or go to the table's current row. */
function row(key: string): void {
  const focused = document.activeElement?.closest<HTMLElement>("[data-index]");
  if (focused) focused.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  else focusOn('[data-index][tabindex="0"]');
}

/** Go to the page above: from a job to the jobs, from there to Now. */
function up(): void {
  const parent = path.value.replace(/\/[^/]*\/?$/, "") || "/";
  if (path.value !== "/") go(parent);
}

export function Help() {
  const close = () => {
    helpOpen.value = false;
  };
  const groups = Map.groupBy(bindings(), (binding) => binding.group);
  const on = taste.value.singleKeys === "on";
  return (
    <Dialog title="Keyboard shortcuts" onClose={close} wide>
      <div class="keys">
        {(["Everywhere", "This page", "Rows", "Go"] as const).map((group) => (
          <section key={group}>
            <h3>{group}</h3>
            <dl>
              {groups.get(group)?.map((binding) => (
                <div key={binding.keys}>
                  <dt>
                    <Keys of={binding.keys} />
                  </dt>
                  <dd>{binding.label}</dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
      <div class="actions">
        <label class="row grow">
          <input
            type="checkbox"
            checked={on}
            onChange={() => setTaste({ singleKeys: on ? "off" : "on" })}
          />
          Single-key shortcuts are on
        </label>
        <button type="button" class="button" onClick={close}>
          Close
        </button>
      </div>
    </Dialog>
  );
}

/** A combination as keycaps. */
export function Keys({ of }: { of: string }) {
  return (
    <span class="row">
      {of.split(" ").map((key) => (
        <kbd key={key}>{key}</kbd>
      ))}
    </span>
  );
}
