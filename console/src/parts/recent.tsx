/** The last executions of a job as a strip of cells: a glance at how it fares. */
import type { RecentExecution } from "../api/types.ts";
import { Link } from "../router.tsx";
import { taste } from "../state/taste.ts";
import { momentWords } from "./moment.ts";
import { toneOf, wordsOf, worstFirst } from "./tone.ts";

interface RecentStripProps {
  /** The newest first, as the API has them; it is drawn on the right. */
  recent: readonly RecentExecution[];
  /** Cells lead to their executions, and are wide enough to hit. */
  links?: boolean;
}

export function RecentStrip({ recent, links = false }: RecentStripProps) {
  if (recent.length === 0) return <span class="dim">never executed</span>;
  const counts: Record<string, number> = {};
  for (const { status } of recent) counts[status] = (counts[status] ?? 0) + 1;
  const words = worstFirst(counts).map(([state, count]) => `${count} ${wordsOf(state)}`);
  const label = `Last ${recent.length}: ${words.join(", ")}`;
  if (!links) {
    return (
      <span class="recent" role="img" aria-label={label}>
        {recent.toReversed().map((one) => (
          <span key={one.id} class={`cell ${toneOf(one.status)}`} title={titleOf(one)} />
        ))}
      </span>
    );
  }
  return (
    <span class="recent links" role="group" aria-label={label}>
      {recent.toReversed().map((one) => (
        <Link
          key={one.id}
          to={`/executions/${one.id}`}
          class={`cell ${toneOf(one.status)}`}
          title={titleOf(one)}
          aria-label={`#${one.id} ${wordsOf(one.status)}`}
        />
      ))}
    </span>
  );
}

function titleOf({ id, status, created_at }: RecentExecution): string {
  return `#${id} ${wordsOf(status)}, ${momentWords(new Date(created_at), taste.value.clock)}`;
}
