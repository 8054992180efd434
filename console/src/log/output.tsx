/** Output of an execution: of one target, or of all of them by arrival, with a search over it. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import { follow } from "../api/stream.ts";
import { urlOf } from "../api/url.ts";
import { Empty } from "../parts/empty.tsx";
import { useKeys } from "../parts/keyboard.tsx";
import { toast, toastError } from "../parts/toast.tsx";
import { Trouble } from "../parts/trouble.tsx";
import { query, setQuery } from "../router.tsx";
import { taste } from "../state/taste.ts";
import { ERROR_PATTERN, formatRange, parseRange } from "./find.ts";
import { FindBar, FoundHosts } from "./find-bar.tsx";
import type { Looks } from "./rows.ts";
import { type Part, Search, type Wanted } from "./search.ts";
import { LineSource } from "./source.ts";
import { type LogPlace, LogView } from "./view.ts";

const REFRESH_MS = 300;
/** Until the end was read, there is no place to follow from. */
const UNREAD_MS = 5_000;

export interface OutputProps {
  /** Id of the execution. */
  id: string;
  /** Name of a target; "": all of them. */
  target: string;
  /** The execution has ended: nothing is added. */
  hasEnded: boolean;
  /** It opens on its last lines, as those of what failed say why. */
  opensAtEnd: boolean;
  /** Select the runs on which something was found. */
  onSelect?: (runs: readonly number[]) => void;
  /** Show the output of one target. */
  onTarget?: (name: string) => void;
}

export function Output(props: OutputProps) {
  const { id, target, hasEnded, onSelect, onTarget } = props;
  const stream = streamOf(query.value.get("stream"));
  const part: Part = { execution: id, target, stream };
  const log = useLog(part, hasEnded, props.opensAtEnd);
  const find = useFind(part, log.view);
  const flag = (name: string) => query.value.get(name) === "1";
  const looks: Looks = {
    wrap: flag("wrap"),
    times: flag("times"),
    utc: taste.value.clock === "utc",
    ansi: query.value.get("ansi") !== "0",
    names: !target,
    mark: find.search && !find.search.wanted.pattern ? find.search.wanted.text : "",
  };
  useEffect(() => log.view.current?.setLooks(looks), [JSON.stringify(looks), log.key]);
  useOutputKeys(find);
  const place = log.place.value;
  return (
    <div class="log-frame">
      <LogBar id={id} target={target} stream={stream} looks={looks} find={find} />
      {log.error.value && <Trouble error={log.error.value} onRetry={log.refresh} />}
      {log.total.value === 0 && (
        <Empty
          why={
            hasEnded
              ? "Nothing was written. The exit code and the error are in the tab Targets."
              : "Nothing has been written yet. It is shown as it comes."
          }
        />
      )}
      <div
        ref={log.box}
        class={looks.wrap ? "log log-wrap" : "log"}
        hidden={log.total.value === 0}
        tabIndex={0}
        role="region"
        aria-label={target ? `Output of ${target}` : "Output of all targets"}
      />
      {!hasEnded && place.added > 0 && (
        <button type="button" class="button log-pill" onClick={() => log.view.current?.toEnd()}>
          {place.added.toLocaleString("en")} new lines ↓
        </button>
      )}
      <p class="small dim" role="status">
        {log.total.value?.toLocaleString("en") ?? "…"} lines
        {!hasEnded && (place.atEnd ? ", following" : ", stays here")}
      </p>
      {!target && find.search && (
        <FoundHosts search={find.search} onSelect={onSelect} onTarget={onTarget} />
      )}
    </div>
  );
}

interface LogBarProps {
  id: string;
  target: string;
  stream: Part["stream"];
  looks: Looks;
  find: Find;
}

function LogBar({ id, target, stream, looks, find }: LogBarProps) {
  const raw = { format: "text", target, stream };
  return (
    <div class="log-bar">
      <FindBar find={find} ofAll={!target} />
      <label class="small">
        Stream{" "}
        <select
          class="input log-select"
          value={stream}
          onChange={(event) => setQuery({ stream: event.currentTarget.value })}
        >
          <option value="">both</option>
          <option value="stdout">stdout</option>
          <option value="stderr">stderr</option>
        </select>
      </label>
      <Switch name="wrap" label="Wrap" on={looks.wrap} />
      <Switch name="times" label="Times" on={looks.times} />
      <Switch name="ansi" label="Colours" on={looks.ansi} off="0" />
      <a class="button small" href={urlOf("/executions/{id}/log", { id }, raw)} download>
        Raw
      </a>
    </div>
  );
}

function streamOf(word: string | null): Part["stream"] {
  return word === "stdout" || word === "stderr" ? word : "";
}

function Switch({
  name,
  label,
  on,
  off,
}: {
  name: string;
  label: string;
  on: boolean;
  off?: string;
}) {
  const change = off === undefined ? (on ? null : "1") : on ? off : null;
  return (
    <button
      type="button"
      class="button small"
      aria-pressed={on}
      onClick={() => setQuery({ [name]: change })}
    >
      {label}
    </button>
  );
}

/** The view, for as long as the part of the output is the same. */
function useLog(part: Part, hasEnded: boolean, opensAtEnd: boolean) {
  const box = useRef<HTMLDivElement>(null);
  const view = useRef<LogView | null>(null);
  const place = useSignal<LogPlace>({ atEnd: true, first: 1, added: 0 });
  const total = useSignal<number | null>(null);
  const error = useSignal<RequestError | null>(null);
  const key = `${part.execution} ${part.target} ${part.stream}`;
  const source = useMemo(() => new LineSource(fetchLines(part)), [key]);
  source.isLive = !hasEnded;
  useEffect(() => {
    total.value = null;
    error.value = null;
    source.onError = (failed) => {
      if (!(failed instanceof RequestError)) throw failed;
      error.value = failed;
    };
    source.onRead = () => {
      error.value = null;
    };
    const range = parseRange(location.hash);
    const looks = { wrap: false, times: false, utc: false, ansi: true, names: false, mark: "" };
    const made = new LogView(box.current!, source, looks, { atEnd: opensAtEnd && !range });
    view.current = made;
    made.onPlace = (now) => {
      place.value = now;
      if (source.seq !== null) total.value = source.total;
    };
    made.onChoose = (chosen) => history.replaceState(null, "", formatRange(chosen));
    void source.read().then(() => {
      if (!range || view.current !== made) return;
      made.setChosen(range);
      made.to(range[0]);
    });
    return () => {
      made.close();
      source.close();
      view.current = null;
    };
  }, [source]);
  useEffect(() => (hasEnded ? undefined : followOutput(part, source)), [source, hasEnded]);
  useEffect(() => {
    if (hasEnded && source.seq !== null) void source.refresh();
  }, [hasEnded]);
  const refresh = () => {
    error.value = null;
    void source.refresh();
  };
  return { box, view, place, total, error, key, refresh };
}

function fetchLines({ execution, target, stream }: Part) {
  return (from: number, count: number, signal: AbortSignal) =>
    ask("GET /executions/{id}/lines", {
      path: { id: execution },
      query: { from, count, ...(target && { target }), ...(stream && { stream }) },
      signal,
    });
}

/** The stream says that there is more; the lines themselves come by number. */
function followOutput({ execution, target }: Part, source: LineSource): () => void {
  let timer = 0;
  let stop = () => {};
  let ended = false;
  const begin = () => {
    timer = 0;
    if (ended) return;
    if (source.seq === null) {
      timer = window.setTimeout(() => void source.read().then(begin), UNREAD_MS);
      return;
    }
    const given = { kinds: "output", target };
    stop = follow({
      url: urlOf("/executions/{id}/events", { id: execution }, given),
      after: String(source.seq),
      onEvent: () => {
        if (timer || ended) return;
        timer = window.setTimeout(() => {
          timer = 0;
          void source.refresh();
        }, REFRESH_MS);
      },
    });
  };
  void source.read().then(begin);
  return () => {
    ended = true;
    clearTimeout(timer);
    stop();
  };
}

export interface Find {
  search: Search | null;
  /** The line of the match that is shown; 0: none yet. */
  current: number;
  start(wanted: Wanted | null): void;
  go(back: boolean): void;
  goToError(back: boolean): void;
}

function useFind(part: Part, view: { current: LogView | null }): Find {
  const [search, setSearch] = useState<Search | null>(null);
  const [current, setCurrent] = useState(0);
  const errors = useRef<Search | null>(null);
  const key = `${part.execution} ${part.target} ${part.stream}`;
  useEffect(
    () => () => {
      errors.current?.stop();
      errors.current = null;
      setSearch(null);
      setCurrent(0);
    },
    [key],
  );
  useEffect(() => () => search?.stop(), [search]);
  const beat = search?.beat.value ?? 0;
  useEffect(() => {
    view.current?.setFound((line) => search?.found.has(line) ?? false, current);
  }, [search, beat, current]);
  const show = (line: number | null) => {
    if (line === null) return;
    setCurrent(line);
    view.current?.to(line);
  };
  // The first match is shown as soon as it is there.
  useEffect(() => {
    if (search && current === 0 && search.found.numbers.length > 0) show(search.found.numbers[0]!);
  }, [search, beat]);
  const start = (wanted: Wanted | null) => {
    const next = wanted && new Search(part, wanted);
    setCurrent(0);
    setSearch(next);
    void next?.run();
  };
  const goToError = async (back: boolean) => {
    if (!errors.current) {
      errors.current = new Search(part, { text: ERROR_PATTERN, pattern: true, ignoreCase: true });
      void errors.current.runAll();
    }
    const searched = errors.current;
    await searched.until(current);
    if (errors.current !== searched) return;
    if (searched.error.value) {
      errors.current = null;
      return toastError(searched.error.value);
    }
    if (searched.found.count === 0) toast("No line looks like an error.");
    show(searched.found.next(current, back));
  };
  return {
    search,
    current,
    start,
    go: (back) => show(search?.found.next(current, back) ?? null),
    goToError: (back) => void goToError(back),
  };
}

function useOutputKeys(find: Find): void {
  const focus = () => document.querySelector<HTMLInputElement>(".log-find")?.select();
  useKeys(
    () => [
      { keys: "Ctrl-F", label: "Find in the output", group: "This page", run: focus },
      { keys: "n", label: "Next match", group: "This page", run: () => find.go(false) },
      { keys: "N", label: "Previous match", group: "This page", run: () => find.go(true) },
      { keys: "e", label: "Next error line", group: "This page", run: () => find.goToError(false) },
      {
        keys: "E",
        label: "Previous error line",
        group: "This page",
        run: () => find.goToError(true),
      },
    ],
    [find],
  );
}
