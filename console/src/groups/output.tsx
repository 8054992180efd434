/** What a group has written: its end if it failed, its beginning if not. */
import { ask } from "../api/ask.ts";
import type { ResultGroup } from "../api/types.ts";
import { plainText } from "../log/ansi.ts";
import { textOfLine } from "../log/source.ts";
import { Text } from "../parts/text.tsx";
import { Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";

const LINES_SHOWN = 6;

type Stream = "stdout" | "stderr";

interface GroupOutputProps {
  /** Id of the execution. */
  id: string;
  group: ResultGroup;
  /** How many lines of each stream. */
  shown?: number;
}

export function GroupOutput({ id, group, shown = LINES_SHOWN }: GroupOutputProps) {
  const target = group.targets[0]?.name;
  if (!group.stdout && !group.stderr) {
    const isSaid = group.error_code !== null && group.error_code !== "nonzero_exit";
    return isSaid ? null : <p class="small dim">It has written nothing.</p>;
  }
  const to = new URLSearchParams({ tab: "output", on: target ?? "" });
  return (
    <>
      <StreamLines id={id} group={group} stream="stdout" shown={shown} />
      <StreamLines id={id} group={group} stream="stderr" shown={shown} />
      {target !== undefined && (
        <Link class="small" to={`/executions/${id}?${to}`}>
          All output of <Text of={target} />
        </Link>
      )}
    </>
  );
}

interface StreamLinesProps extends GroupOutputProps {
  stream: Stream;
  shown: number;
}

function StreamLines({ id, group, stream, shown }: StreamLinesProps) {
  const text = group[stream];
  const target = group.targets[0]?.name;
  if (!text) return null;
  const isCut = group[`${stream}_truncated`];
  const fromEnd = group.status !== "succeeded";
  if (fromEnd && isCut && target !== undefined)
    return <LastLines id={id} target={target} stream={stream} shown={shown} />;
  const lines = linesOf(text);
  return (
    <Lines
      lines={fromEnd ? lines.slice(-shown) : lines.slice(0, shown)}
      // Of a text that was cut nobody has counted the lines.
      more={isCut ? null : Math.max(0, lines.length - shown)}
      fromEnd={fromEnd}
      stream={stream}
    />
  );
}

interface LastLinesProps {
  id: string;
  target: string;
  stream: Stream;
  shown: number;
}

/** The end of an output of which the group has only the beginning. */
function LastLines({ id, target, stream, shown }: LastLinesProps) {
  const asked = useResource(
    (signal) =>
      ask("GET /executions/{id}/lines", {
        path: { id },
        query: { from: -shown, count: shown, target, stream },
        signal,
      }),
    [id, target, stream, shown],
  );
  const found = asked.data.value;
  if (!found) return null;
  const lines = found.lines.map(textOfLine);
  return <Lines lines={lines} more={found.total - lines.length} fromEnd stream={stream} />;
}

const linesOf = (text: string): string[] => text.trimEnd().split(/\r?\n/);

interface LinesProps {
  lines: readonly string[];
  /** How many lines are not shown; null: some, not counted. */
  more: number | null;
  fromEnd: boolean;
  stream: Stream;
}

function Lines({ lines, more, fromEnd, stream }: LinesProps) {
  const shown = lines.map(plainText).join("\n");
  const rest = more !== 0 && <span class="dim">{moreWords(more, fromEnd)}</span>;
  return (
    <pre class={`first-lines first-${stream}`} tabIndex={0} role="group" aria-label={stream}>
      {fromEnd && rest}
      {fromEnd && rest && "\n"}
      <Text of={shown} />
      {!fromEnd && rest && "\n"}
      {!fromEnd && rest}
    </pre>
  );
}

function moreWords(more: number | null, fromEnd: boolean): string {
  if (more === null) return "… more lines";
  const lines = `${more.toLocaleString("en")} ${more === 1 ? "line" : "lines"}`;
  return fromEnd ? `… ${lines} before` : `… ${lines} more`;
}
