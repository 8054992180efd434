/** The row of retries: #17 → retry #18 → #19. */
import { ask } from "../api/ask.ts";
import type { Execution } from "../api/types.ts";
import { Status } from "../parts/status.tsx";
import { Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";

const PARENTS_MAX = 10;
const RETRIES_MAX = 20;

interface Family {
  /** From the first one to the parent. */
  before: Execution[];
  after: Execution[];
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
          <One execution={one} /> → {word}
        </span>
      ))}
      <b aria-current="page">#{execution.id}</b>
      {found.after.length > 0 && <span>→ retry</span>}
      {found.after.map((one) => (
        <One key={one.id} execution={one} />
      ))}
      {retries.length > found.after.length && (
        <Link to={`/executions?q=parent:${execution.id}`}>
          {retries.length - found.after.length} more
        </Link>
      )}
    </nav>
  );
}

function One({ execution }: { execution: Execution }) {
  return (
    <Link to={`/executions/${execution.id}`} class="row">
      #{execution.id} <Status state={execution.status} label="" />
    </Link>
  );
}

async function load(execution: Execution, signal: AbortSignal): Promise<Family> {
  const before: Execution[] = [];
  let parent = execution.parent;
  while (parent !== null && before.length < PARENTS_MAX) {
    const one = await ask("GET /executions/{id}", { path: { id: String(parent) }, signal });
    before.unshift(one);
    parent = one.parent;
  }
  const ids = execution.retries.slice(0, RETRIES_MAX).map(String);
  if (ids.length === 0) return { before, after: [] };
  const after = await ask("GET /executions", { query: { id: ids, sort: "id" }, signal });
  return { before, after: after.items };
}
