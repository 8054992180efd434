/** Tabs; which one is open stands in the URL. */
import type { ComponentChildren } from "preact";
import { useId, useRef } from "preact/hooks";
import { query, setQuery } from "../router.tsx";

export interface Tab {
  name: string;
  label: ComponentChildren;
  content: () => ComponentChildren;
}

interface TabsProps {
  label: string;
  tabs: readonly Tab[];
  /** The tab that is open if the URL names none. */
  first?: string;
  /** Name of the query parameter. */
  parameter?: string;
}

export function Tabs({ label, tabs, first, parameter = "tab" }: TabsProps) {
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const wanted = query.value.get(parameter) ?? first;
  const open = tabs.find((tab) => tab.name === wanted) ?? tabs[0];
  if (!open) return null;
  const choose = (name: string) =>
    setQuery({ [parameter]: name === (first ?? tabs[0]?.name) ? null : name }, { replace: false });
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(open) + step + tabs.length) % tabs.length]!;
    choose(next.name);
    list.current?.querySelector<HTMLElement>(`[data-tab="${next.name}"]`)?.focus();
  };
  return (
    <>
      <div class="tabs" role="tablist" aria-label={label} ref={list} onKeyDown={onKeyDown}>
        {tabs.map((tab) => (
          <button
            key={tab.name}
            type="button"
            role="tab"
            id={`${id}-${tab.name}`}
            data-tab={tab.name}
            aria-selected={tab === open}
            aria-controls={`${id}-panel`}
            tabIndex={tab === open ? 0 : -1}
            onClick={() => choose(tab.name)}
          >
            {tab.label}
          </button>
        ))}
      </div>
      <div role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${open.name}`}>
        {open.content()}
      </div>
    </>
  );
}
