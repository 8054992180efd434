/** Now: what runs, and is anything wrong? */
import { ask } from "../api/ask.ts";
import type { Execution } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status, Tally, TallyBar } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Duration, Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useResource } from "../state/resource.ts";

const OPEN = ["pending_approval", "queued", "running", "paused", "cancelling"];

export default function Now() {
  const running = useResource(
    (signal) => ask("GET /executions", { query: { status: OPEN, limit: 50 }, signal }),
    [],
    15,
  );
  return (
    <div class="stack">
      <h1 class="hidden-text">Now</h1>
      <Panel title="Running" flush>
        <Loaded resource={running} what="what runs">
          {({ items }) =>
            items.length ? (
              <ul class="lines">
                {items.map((execution) => (
                  <Running key={execution.id} execution={execution} />
                ))}
              </ul>
            ) : (
              <Empty why="Nothing runs." />
            )
          }
        </Loaded>
      </Panel>
    </div>
  );
}

function Running({ execution }: { execution: Execution }) {
  return (
    <li>
      <Status state={execution.status} label="" />
      <b class="cut">
        <Text of={execution.job_name} /> #{execution.number ?? execution.id}
      </b>
      <span class="dim">
        <Text of={execution.requested_by} />, <Duration since={execution.created_at} />
      </span>
      <TallyBar counts={execution.counts} total={execution.total_targets} />
      <Tally counts={execution.counts} />
      <Time at={execution.created_at} ago />
    </li>
  );
}
