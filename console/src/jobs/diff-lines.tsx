/** The lines that differ between two definitions. */
import { Panel } from "../parts/panel.tsx";
import { useSettled } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useResource } from "../state/resource.ts";
import { lineDiff } from "./definition.ts";

interface DiffLinesProps {
  title: string;
  before: string;
  after: string;
}

export function DiffLines({ title, before, after }: DiffLinesProps) {
  const settled = useSettled(after, after);
  const diff = useResource(() => lineDiff(before, settled), [before, settled]);
  return (
    <Panel title={title}>
      <Loaded resource={diff} what="the difference">
        {(lines) =>
          lines.some((line) => line.sign === "+" || line.sign === "−") ? (
            <pre class="definition">
              {lines.map((line, index) => (
                <span key={index} class={`diff-line tone ${toneOf(line.sign)}`}>
                  {line.sign} <Text of={line.text} />
                  {"\n"}
                </span>
              ))}
            </pre>
          ) : (
            <p class="dim">Nothing.</p>
          )
        }
      </Loaded>
    </Panel>
  );
}

const toneOf = (sign: string) => ({ "+": "ok", "−": "bad" })[sign] ?? "";
