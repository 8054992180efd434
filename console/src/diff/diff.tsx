/** The output of a target beside that of another one, or of its last good run. */
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Empty } from "../parts/empty.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { diffInWorker } from "./in-worker.ts";
import { type DiffRow, sideBySide } from "./rows.ts";
import { LAST_GOOD, loadSides, type Side } from "./sides.ts";

const HEAD_BYTES = 64 << 10;
const WHOLE_BYTES = 4 << 20;
/** Rows that are drawn, and added at each wish for more. */
const ROWS_SHOWN = 2_000;
const isSet = (name: string): boolean => query.value.get(name) === "1";

export interface DiffProps {
  /** Id of the execution. */
  id: string;
  /** Names of two targets; the second may be LAST_GOOD. */
  left: string;
  right: string;
}

export function Diff({ id, left, right }: DiffProps) {
  const stream = query.value.get("stream") === "stderr" ? "stderr" : "stdout";
  const bytes = isSet("whole") ? WHOLE_BYTES : HEAD_BYTES;
  const sides = useResource(
    (signal) => loadSides({ id, left, right, stream, bytes }, signal),
    [id, left, right, stream, bytes],
  );
  return (
    <section class="panel diff" aria-label="Differences">
      <header>
        <h2>
          <Text of={left} /> and {right === LAST_GOOD ? "its last good run" : <Text of={right} />}
        </h2>
        <div class="actions groups-bar">
          <button
            type="button"
            class="button small"
            title="Show the other stream"
            onClick={() => setQuery({ stream: stream === "stdout" ? "stderr" : null })}
          >
            Stream: {stream}
          </button>
          <Toggle name="split" label="Side by side" />
          <Toggle name="normalise" label="Ignore names and numbers" />
          <Toggle name="whole" label="Whole" />
          <button
            type="button"
            class="button small"
            onClick={() => setQuery({ diff: null }, { replace: false })}
          >
            Close
          </button>
        </div>
      </header>
      <div class="body stack-tight">
        <Loaded resource={sides} what="both outputs">
          {(found) => <Compared sides={found} />}
        </Loaded>
      </div>
    </section>
  );
}

function Toggle({ name, label }: { name: string; label: string }) {
  const on = isSet(name);
  return (
    <button
      type="button"
      class="button small"
      aria-pressed={on}
      onClick={() => setQuery({ [name]: on ? null : "1" })}
    >
      {label}
    </button>
  );
}

function Compared({ sides }: { sides: readonly [Side, Side] }) {
  const normalise = isSet("normalise");
  const rows = useDiff(sides, normalise);
  const most = useSignal(ROWS_SHOWN);
  if (rows === null)
    return (
      <p class="loading" role="status">
        Comparing …
      </p>
    );
  const cut = sides.filter((side) => side.isCut).map((side) => side.title);
  const differ = rows.some((row) => row.kind === "less" || row.kind === "more");
  const shown = rows.slice(0, most.value);
  const rest = rows.length - shown.length;
  return (
    <>
      <p class="small">
        − <SideTitle side={sides[0]} /> &nbsp; + <SideTitle side={sides[1]} />
        {cut.length > 0 && ` Only the beginning of ${cut.join(" and ")} is compared.`}
      </p>
      {!differ && <Empty why="Both wrote the same." />}
      {differ && (isSet("split") ? <Split rows={shown} /> : <Unified rows={shown} />)}
      {differ && rest > 0 && (
        <button type="button" class="button" onClick={() => (most.value += ROWS_SHOWN)}>
          Show more: {rest.toLocaleString("en")} rows are left
        </button>
      )}
    </>
  );
}

/** The rows of the differences; null until they are known. */
function useDiff(sides: readonly [Side, Side], normalise: boolean): DiffRow[] | null {
  const rows = useSignal<DiffRow[] | null>(null);
  useEffect(() => {
    rows.value = null;
    const names = normalise ? sides.map((side) => side.target) : null;
    const work = new AbortController();
    diffInWorker({ texts: [sides[0].text, sides[1].text], names }, work.signal).then(
      (found) => {
        rows.value = found;
      },
      (failed: unknown) => {
        if (!work.signal.aborted) throw failed;
      },
    );
    return () => work.abort();
  }, [sides, normalise]);
  return rows.value;
}

function SideTitle({ side }: { side: Side }) {
  const on = encodeURIComponent(side.target);
  return (
    <Link to={`/executions/${side.execution}?tab=output&on=${on}`}>
      <Text of={side.title} />
    </Link>
  );
}

const SIGN = { same: " ", less: "−", more: "+", skipped: "⋯" } as const;

function Unified({ rows }: { rows: readonly DiffRow[] }) {
  return (
    <div class="diff-rows" tabIndex={0} role="region" aria-label="Changed lines">
      {rows.map((row, index) => (
        <div key={index} class={`diff-row diff-${row.kind}`}>
          <span class="diff-number">{row.left ?? ""}</span>
          <span class="diff-number">{row.right ?? ""}</span>
          <span class="diff-sign">{SIGN[row.kind]}</span>
          <span>
            <Text of={row.text} />
          </span>
        </div>
      ))}
    </div>
  );
}

function Split({ rows }: { rows: readonly DiffRow[] }) {
  return (
    <div class="diff-rows diff-split" tabIndex={0} role="region" aria-label="Changed lines">
      {sideBySide(rows).map((pair, index) => (
        <div key={index} class="diff-pair">
          {pair.map((row, side) => (
            <div key={side} class={`diff-row diff-${row?.kind ?? "none"}`}>
              <span class="diff-number">{(side === 0 ? row?.left : row?.right) ?? ""}</span>
              <span>{row && <Text of={row.text} />}</span>
            </div>
          ))}
        </div>
      ))}
    </div>
  );
}
