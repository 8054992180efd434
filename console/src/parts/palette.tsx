/** Ctrl-K: go to anything, do anything that this page can do. */
import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { titleOf } from "../execution/name.ts";
import { go } from "../router.tsx";
import { bindings } from "../state/keys.ts";
import { mayDo, onlyLaunches, places } from "../state/rights.ts";
import { setTaste } from "../state/taste.ts";
import { Dialog } from "./dialog.tsx";
import { Keys, paletteOpen } from "./keyboard.tsx";
import { Text } from "./text.tsx";

interface Choice {
  label: string;
  kind: string;
  keys?: string | undefined;
  run: () => void;
}
const SHOWN_MAX = 12;
/** Of jobs, and of targets. */
const FOUND_MAX = 20;
const OFFERED = 5;
const TYPING_MS = 150;
const EXECUTION = "execution";

export function Palette() {
  const id = useId();
  const [typed, setTyped] = useState("");
  const [at, setAt] = useState(0);
  const list = useRef<HTMLDivElement>(null);
  const fixed = useMemo(fixedChoices, []);
  const found = useThings(typed);
  const words = typed.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const fitting = fixed.filter((choice) =>
    words.every((word) => `${choice.kind} ${choice.label}`.toLowerCase().includes(word)),
  );
  const named = found.some((choice) => choice.kind === EXECUTION);
  const choices = [...(named ? [] : numbered(typed)), ...fitting, ...found].slice(0, SHOWN_MAX);
  const close = () => {
    paletteOpen.value = false;
  };
  const choose = (choice: Choice | undefined) => {
    if (!choice) return;
    close();
    // After the dialog has given the focus back.
    setTimeout(choice.run);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && choices.length) setAt((at + step + choices.length) % choices.length);
    else if (event.key === "Enter") choose(choices[at]);
    else return;
    event.preventDefault();
  };
  useEffect(() => {
    list.current?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  });
  return (
    <Dialog title="Go to" onClose={close}>
      <input
        class="input"
        type="text"
        role="combobox"
        aria-label="Go to"
        aria-expanded="true"
        aria-controls={`${id}-list`}
        aria-activedescendant={choices[at] ? `${id}-${at}` : undefined}
        aria-autocomplete="list"
        autoComplete="off"
        spellcheck={false}
        placeholder="A page, an action, a number of an execution, a name"
        value={typed}
        onInput={(event) => {
          setTyped(event.currentTarget.value);
          setAt(0);
        }}
        onKeyDown={onKeyDown}
      />
      <div ref={list} id={`${id}-list`} class="palette" role="listbox" aria-label="Found">
        {choices.map((choice, index) => (
          <div
            key={`${choice.kind} ${choice.label}`}
            id={`${id}-${index}`}
            role="option"
            aria-selected={index === at}
            onClick={() => choose(choice)}
          >
            <span class="dim small kind">{choice.kind}</span>
            <span class="grow cut">
              <Text of={choice.label} />
            </span>
            {choice.keys && <Keys of={choice.keys} />}
          </div>
        ))}
      </div>
      {choices.length === 0 && <p class="dim">Nothing found.</p>}
    </Dialog>
  );
}

/** Pages, what this page can do, and the looks. */
function fixedChoices(): Choice[] {
  const keys = bindings();
  const pages = places().map((entry) => ({
    label: entry.label,
    kind: "page",
    keys: `g ${entry.key}`,
    run: () => go(entry.to),
  }));
  const actions = keys
    .filter((binding) => !binding.keyOnly && binding.group !== "Go")
    .map((binding) => ({
      label: binding.label,
      kind: "action",
      keys: binding.keys,
      run: binding.run,
    }));
  const themes = (["light", "dark", "system"] as const).map((theme) => ({
    label: `Theme: ${theme}`,
    kind: "look",
    run: () => setTaste({ theme }),
  }));
  return [...pages, ...actions, ...themes];
}

const numberOf = (typed: string): string | undefined => /^#?(\d{1,15})$/.exec(typed)?.[1];

/** `17` and `#17`: the execution with this id, whose name is not known yet. */
function numbered(typed: string): Choice[] {
  const number = numberOf(typed.trim());
  return number === undefined ? [] : [executionChoice(`#${number}`, number)];
}

function executionChoice(label: string, id: string): Choice {
  return { label, kind: EXECUTION, run: () => go(`/executions/${id}`) };
}

/**
 * The execution with this number, and jobs and targets with this text in their names; those that
 * begin with it come first.
 */
function useThings(typed: string): Choice[] {
  const [found, setFound] = useState<Choice[]>([]);
  const text = typed.trim();
  useEffect(() => {
    setFound([]);
    if (text.length < 2 && numberOf(text) === undefined) return;
    const request = new AbortController();
    const timer = setTimeout(async () => {
      const answers = await Promise.all([
        executions(text, request.signal),
        jobs(text, request.signal),
        targets(text, request.signal),
      ]);
      if (!request.signal.aborted) setFound(answers.flat());
    }, TYPING_MS);
    return () => {
      clearTimeout(timer);
      request.abort();
    };
  }, [text]);
  return found;
}

function prefixFirst<T extends { name: string }>(items: readonly T[], text: string): T[] {
  const isLater = ({ name }: T): number =>
    name.toLowerCase().startsWith(text.toLowerCase()) ? 0 : 1;
  return [...items].sort((a, b) => isLater(a) - isLater(b)).slice(0, OFFERED);
}

async function executions(typed: string, signal: AbortSignal): Promise<Choice[]> {
  const id = numberOf(typed);
  if (id === undefined) return [];
  try {
    const found = await ask("GET /executions/{id}", { path: { id }, signal });
    return [executionChoice(`#${id} ${titleOf(found)}`, id)];
  } catch {
    return []; // it is offered by its number, and its page says what is wrong
  }
}

async function jobs(name: string, signal: AbortSignal): Promise<Choice[]> {
  if (!mayDo("jobs:read")) return [];
  const page = onlyLaunches() ? "/launch" : "";
  try {
    const { items } = await ask("GET /jobs", {
      query: { q: name, sort: "name", limit: FOUND_MAX },
      signal,
    });
    return prefixFirst(items, name).map((job) => ({
      label: job.name,
      kind: "job",
      run: () => go(`/jobs/${job.id}${page}`),
    }));
  } catch {
    return []; // no answer: the page itself says so
  }
}

async function targets(name: string, signal: AbortSignal): Promise<Choice[]> {
  if (!mayDo("targets:read")) return [];
  try {
    const { items } = await ask("GET /targets", {
      query: { q: name, sort: "name", limit: FOUND_MAX },
      signal,
    });
    return prefixFirst(items, name).map((target) => ({
      label: target.name,
      kind: "target",
      run: () => go(`/targets/${encodeURIComponent(target.name)}`),
    }));
  } catch {
    return [];
  }
}
