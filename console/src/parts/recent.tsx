/** The last executions of a job as a strip of cells: a glance at how it fares. */
import type { RecentExecution } from "../api/types.ts";
import { Link } from "../router.tsx";
import { momentWords } from "./moment.ts";
import { toneOf, wordsOf, worstFirst } from "./tone.ts";

/** `recent`: the newest first, as the API has them; it is drawn on the right. */
export function RecentStrip({ recent }: { recent: readonly RecentExecution[] }) {
  if (recent.length === 0) return <span class="dim">never executed</span>;
  const counts: Record<string, number> = {};
  for (const { status } of recent) counts[status] = (counts[status] ?? 0) + 1;
  const words = worstFirst(counts).map(([state, count]) => `${count} ${wordsOf(state)}`);
  return (
    <span class="recent" role="group" aria-label={`Last ${recent.length}: ${words.join(", ")}`}>
      {recent.toReversed().map((one) => (
        <Link
          key={one.id}
          to={`/executions/${one.id}`}
          class={`cell ${toneOf(one.status)}`}
          title={`#${one.id} ${wordsOf(one.status)}, ${momentWords(new Date(one.created_at), "local")}`}
          aria-label={`#${one.id} ${wordsOf(one.status)}`}
        />
      ))}
    </span>
  );
}
