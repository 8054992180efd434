/** What an action has written on a target: opened at its end if it failed. */
import { useEffect, useRef } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Result } from "../api/types.ts";
import { textOfLine } from "../log/source.ts";
import { CopyButton } from "../parts/copy.tsx";
import { Text } from "../parts/text.tsx";
import { useResource } from "../state/resource.ts";

const LAST_LINES = 200;

interface StreamProps {
  /** Id of the execution. */
  id: string;
  result: Result;
  stream: "stdout" | "stderr";
  /** It is the last attempt of its action: the end of the log is that of this result. */
  isLast: boolean;
}

export function StreamOutput(props: StreamProps) {
  const { result, stream, isLast } = props;
  const text = result[stream];
  if (!text) return null;
  const failed = result.error !== null;
  const isCut = result[`${stream}_truncated`];
  if (failed && isCut && isLast) return <LastLines {...props} />;
  return (
    <Shown
      name={stream}
      caption={isCut ? `${stream}, the first 64 KiB` : stream}
      text={text}
      atEnd={failed && !isCut}
    />
  );
}

/** The end of an output of which the result has only the beginning. */
function LastLines({ id, result, stream }: StreamProps) {
  const asked = useResource(
    (signal) =>
      ask("GET /executions/{id}/lines", {
        path: { id },
        query: {
          ...{ from: -LAST_LINES, count: LAST_LINES },
          ...{ target: result.target.id, action: result.action_key, stream },
        },
        signal,
      }),
    [id, result.id, stream],
  );
  const found = asked.data.value;
  if (!found) return null;
  const number = found.lines.length.toLocaleString("en");
  const total = found.total.toLocaleString("en");
  return (
    <Shown
      name={stream}
      caption={`${stream}, the last ${number} of ${total} lines`}
      text={found.lines.map(textOfLine).join("\n")}
      atEnd
    />
  );
}

interface ShownProps {
  name: "stdout" | "stderr";
  caption: string;
  text: string;
  atEnd: boolean;
}

function Shown({ name, caption, text, atEnd }: ShownProps) {
  const box = useRef<HTMLPreElement>(null);
  useEffect(() => {
    if (atEnd && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [text, atEnd]);
  return (
    <figure class={`output ${name}`}>
      <figcaption class="small dim row">
        <span class="grow">{caption}</span>
        <CopyButton text={text} what={name} />
      </figcaption>
      <pre ref={box} tabIndex={0}>
        <Text of={text.replace(/\n$/, "")} />
      </pre>
    </figure>
  );
}
