/** The filter of a list: words in one field, kept in the URL as `q`. */
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { query, setQuery } from "../router.tsx";
import { completions, expectedOf, type FilterWord, toQuery } from "../state/list-filter.ts";

const TYPING_MS = 300;

interface FilterProps {
  label: string;
  words: readonly FilterWord[];
  placeholder?: string;
  /** The list has a full-text search (`q`). */
  text?: boolean;
  /** Any word may stand before a colon, such as the key of a label, and `-` leaves out. */
  open?: boolean;
}

/** The filter that the URL has. */
export function currentFilter(): string {
  return query.value.get("q") ?? "";
}

export function Filter({
  label,
  words,
  placeholder,
  text = false,
  open: anyWord = false,
}: FilterProps) {
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  const [typed, setTyped] = useState(currentFilter());
  const [open, setOpen] = useState(false);
  const [at, setAt] = useState(-1);
  const shown = currentFilter();
  const { unknown, text: free } = toQuery(typed, words);
  const expected = expectedOf(typed, words);
  // What would be refused is not sent: a word half typed, and a text if the list has no full-text
  // search, as which each word begins. The list stays as it is.
  const held = (free !== "" && !text) || expected !== null;
  // Back and forward, and buttons that set the filter.
  useEffect(() => {
    if (document.activeElement !== input.current) setTyped(shown);
  }, [shown]);
  useEffect(() => {
    if (typed === shown || held) return;
    const timer = setTimeout(() => setQuery({ q: typed.trim() }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [typed, shown]);
  const options = open ? completions(typed, words) : [];
  const choose = (option: string) => {
    setTyped(option);
    setAt(-1);
    input.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && options.length) {
      setAt((at + step + options.length) % options.length);
      event.preventDefault();
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (options[at]) choose(options[at]);
      else {
        setOpen(false);
        if (!held) setQuery({ q: typed.trim() }, { replace: false });
      }
    } else if (event.key === "Escape" && open) {
      setOpen(false);
      event.stopPropagation();
    }
  };
  const names = words.map((one) => `${one.word}:`).join(" ");
  const taken = words.map((one) => `${one.single ? "one " : ""}${one.word}:`).join(" ");
  const fault =
    unknown.length && !anyWord
      ? `Left out: ${unknown.join(" ")}. This list takes ${taken}`
      : free !== "" && !text
        ? `"${free}": write what it is, such as ${words[0]?.word}:${free}. This list takes ${names}`
        : null;
  // The options say it, too, and would cover it.
  const hint = options.length === 0 ? expected : null;
  const about = [fault && `${id}-fault`, hint && `${id}-hint`].filter(Boolean).join(" ");
  return (
    <div class="filter">
      <input
        ref={input}
        type="text"
        class="input"
        role="combobox"
        aria-label={label}
        aria-expanded={options.length > 0}
        aria-controls={`${id}-options`}
        aria-autocomplete="list"
        aria-activedescendant={options[at] === undefined ? undefined : `${id}-${at}`}
        aria-invalid={fault ? "true" : undefined}
        aria-describedby={about || undefined}
        data-filter
        autoComplete="off"
        spellcheck={false}
        placeholder={placeholder ?? names}
        value={typed}
        onInput={(event) => {
          setTyped(event.currentTarget.value);
          setOpen(true);
          setAt(-1);
        }}
        onFocus={() => setOpen(true)}
        onBlur={() => setOpen(false)}
        onKeyDown={onKeyDown}
      />
      <div
        id={`${id}-options`}
        role="listbox"
        aria-label="Suggestions"
        class={options.length ? "options" : ""}
      >
        {options.map((option, index) => (
          <div
            key={option}
            id={`${id}-${index}`}
            role="option"
            class="mono"
            aria-selected={index === at}
            tabIndex={-1}
            onPointerDown={(event) => {
              event.preventDefault();
              choose(option);
            }}
          >
            {option.trim().split(" ").at(-1)}
            <span class="dim"> {words.find((one) => option.endsWith(`${one.word}:`))?.hint}</span>
          </div>
        ))}
      </div>
      {fault && (
        <p id={`${id}-fault`} class="small tone warn">
          {fault}
        </p>
      )}
      {hint && (
        <p id={`${id}-hint`} class="small dim">
          {hint}
        </p>
      )}
    </div>
  );
}
