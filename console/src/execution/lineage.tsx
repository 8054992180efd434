/** The row of retries: #17 → retry #18 → #19. What the person may not see is a number without a link. */
import { ask } from "../api/ask.ts";
import type { Execution } from "../api/types.ts";
import { Status } from "../parts/status.tsx";
import { Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";

const PARENTS_MAX = 10;
const RETRIES_MAX = 20;

interface Relative {
  id: number;
  /** Null: the person may not see it. */
  execution: Execution | null;
}

interface Family {
  /** From the first one to the parent. */
  before: Relative[];
  after: Relative[];
}

export function Lineage({ execution }: { execution: Execution }) {
  const { parent, retries } = execution;
  const family = useResource((signal) => load(execution, signal), [execution.id, retries.length]);
  if (parent === null && retries.length === 0) return null;
  const found = family.data.value;
  if (!found) return null;
  const word = execution.triggered_by === "workflow" ? "part" : "retry";
  return (
    <nav class="row lineage" aria-label="Retries">
      {found.before.map((one) => (
        <span key={one.id} class="row">
          <One of={one} /> → {word}
        </span>
      ))}
      <b aria-current="page">#{execution.id}</b>
      {found.after.length > 0 && <span>→ retry</span>}
      {found.after.map((one) => (
        <One key={one.id} of={one} />
      ))}
      {retries.length > found.after.length && (
        <Link to={`/executions?q=parent:${execution.id}`}>
          {retries.length - found.after.length} more
        </Link>
      )}
    </nav>
  );
}

function One({ of: { id, execution } }: { of: Relative }) {
  if (execution === null)
    return (
      <span class="dim" title="You may not see this execution.">
        #{id}
      </span>
    );
  return (
    <Link to={`/executions/${id}`} class="row">
      #{id} <Status state={execution.status} label="" />
    </Link>
  );
}

async function load(execution: Execution, signal: AbortSignal): Promise<Family> {
  const before: Relative[] = [];
  let parent = execution.parent;
  while (parent !== null && before.length < PARENTS_MAX) {
    const [one] = await relatives([parent], signal);
    before.unshift(one!);
    parent = one!.execution?.parent ?? null;
  }
  return { before, after: await relatives(execution.retries.slice(0, RETRIES_MAX), signal) };
}

/** Ask for executions by a filter: it leaves out what the person may not see. */
async function relatives(ids: readonly number[], signal: AbortSignal): Promise<Relative[]> {
  if (ids.length === 0) return [];
  const query = { id: ids.map(String), limit: ids.length };
  const found = await ask("GET /executions", { query, signal });
  const seen = new Map(found.items.map((one) => [one.id, one]));
  return ids.map((id) => ({ id, execution: seen.get(id) ?? null }));
}
