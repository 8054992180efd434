/** The tab Output, until the log view is there: the last entries of the output in order. */
import { ask } from "../api/ask.ts";
import { Empty } from "../parts/empty.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { query } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import type { ExecutionView } from "./view.ts";

const RESULTS = 50;

export function OutputTab({ view }: { view: ExecutionView }) {
  const on = query.value.get("on") ?? "";
  const results = useResource(
    (signal) =>
      ask("GET /executions/{id}/results", {
        path: { id: view.id },
        query: { limit: RESULTS, ...(on && { target_name: [on] }) },
        signal,
      }),
    [view.id, on],
    view.hasEnded ? null : 5,
  );
  return (
    <Loaded resource={results} what="output">
      {({ items }) => {
        const written = items.filter((one) => one.stdout || one.stderr);
        if (written.length === 0) return <Empty why="Nothing has been written yet." />;
        return (
          <div class="stack">
            {written.map((one) => (
              <figure key={one.id} class="output">
                <figcaption class="small dim">
                  <Text of={one.target.name} /> · {one.action_key}
                </figcaption>
                <pre tabIndex={0}>
                  <Text of={one.stdout + one.stderr} />
                </pre>
              </figure>
            ))}
          </div>
        );
      }}
    </Loaded>
  );
}
