/** The field of a search in the output, and the targets on which it was found. */
import { useState } from "preact/hooks";
import { countWords } from "../parts/counts.ts";
import { Text } from "../parts/text.tsx";
import { Trouble } from "../parts/trouble.tsx";
import type { Find } from "./output.tsx";
import type { Search } from "./search.ts";

interface FindBarProps {
  find: Find;
  /** The output of all targets. */
  ofAll: boolean;
}

export function FindBar({ find, ofAll }: FindBarProps) {
  const [text, setText] = useState("");
  const [pattern, setPattern] = useState(false);
  const { search } = find;
  search?.beat.value;
  // With one target there is no list of them.
  const hosts = ofAll ? (search?.found.targets.size ?? 0) : 0;
  const isSame = search?.wanted.text === text && search.wanted.pattern === pattern;
  const submit = (event: Event) => {
    event.preventDefault();
    if (isSame && search) find.go(false);
    else find.start(text ? { text, pattern, ignoreCase: true } : null);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && event.shiftKey && isSame) {
      event.preventDefault();
      find.go(true);
    }
  };
  return (
    <form class="log-find-bar" role="search" onSubmit={submit}>
      <input
        class="input log-find"
        data-filter
        aria-label="Find in the output"
        placeholder="Find in the output"
        autoComplete="off"
        spellcheck={false}
        maxLength={500}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <button
        type="button"
        class="button small"
        aria-pressed={pattern}
        title="The text is a regular expression"
        onClick={() => setPattern(!pattern)}
      >
        .*
      </button>
      <output class="small dim">{search && progress(find, search)}</output>
      {hosts > 0 && (
        <button type="button" class="button small" onClick={showHosts}>
          {countWords(hosts, "target")} ↓
        </button>
      )}
      {search?.error.value && (
        <Trouble error={search.error.value} onRetry={() => find.start(search.wanted)} />
      )}
    </form>
  );
}

/** The list of targets stands below the output. */
function showHosts(): void {
  const list = document.querySelector<HTMLElement>(".found-hosts")!;
  list.scrollIntoView({ block: "end" });
  list.focus();
}

function progress(find: Find, search: Search): string {
  const { found } = search;
  const summary = search.summary.value;
  const stopped = summary !== null || search.error.value !== null;
  if (found.count === 0) return summary ? "not found" : stopped ? "" : "searching …";
  const more = summary?.complete ? "" : stopped ? " and maybe more" : " so far";
  return `${found.upTo(find.current)}/${found.numbers.length}${more}`;
}

interface FoundHostsProps {
  search: Search;
  onSelect: ((runs: readonly number[]) => void) | undefined;
  onTarget: ((name: string) => void) | undefined;
}

const SHOWN = 100;

export function FoundHosts({ search, onSelect, onTarget }: FoundHostsProps) {
  search.beat.value;
  const summary = search.summary.value;
  const targets = [...search.found.targets.values()];
  if (targets.length === 0) return null;
  const next = summary?.next ?? null;
  return (
    <section class="panel found-hosts" aria-label="Targets on which it was found" tabIndex={-1}>
      <header>
        <h2>Found on {countWords(targets.length, "target")}</h2>
        <div class="actions">
          {next !== null && (
            <button type="button" class="button small" onClick={() => void search.run(next)}>
              Search on
            </button>
          )}
          {onSelect && (
            <button
              type="button"
              class="button small"
              onClick={() => onSelect(targets.map((one) => one.run))}
            >
              Select {targets.length.toLocaleString("en")}
            </button>
          )}
        </div>
      </header>
      <ul class="lines">
        {targets.slice(0, SHOWN).map((one) => (
          <li key={one.run}>
            <button type="button" class="button small plain" onClick={() => onTarget?.(one.target)}>
              <Text of={one.target} />
            </button>
            <span class="dim small">{one.lines.toLocaleString("en")} ×</span>
            <code class="cut">
              <Text of={one.first.text} />
            </code>
          </li>
        ))}
      </ul>
      {targets.length > SHOWN && (
        <p class="small dim">and {(targets.length - SHOWN).toLocaleString("en")} more</p>
      )}
    </section>
  );
}
