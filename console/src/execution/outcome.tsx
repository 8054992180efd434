/** How it ended badly, in one line that leads to what the targets have in common. */
import type { Execution } from "../api/types.ts";
import { Icon } from "../parts/icon.tsx";
import { toneOf, wordsOf, worstFirst } from "../parts/tone.ts";
import { setQuery } from "../router.tsx";
import type { ExecutionView } from "./view.ts";

const BAD = ["failed", "lost", "dead", "timeout", "unreachable", "blocked"];

/** Return the counts of the runs that went wrong, worst first. */
export function badCounts(counts: Record<string, number>): [string, number][] {
  return worstFirst(counts).filter(([state]) => BAD.includes(state));
}

export function Outcome({ view, execution }: { view: ExecutionView; execution: Execution }) {
  const bad = badCounts(view.counts.value);
  if (execution.finished_at === null || view.past.value || bad.length === 0) return null;
  const words = bad.map(([state, count]) => `${count.toLocaleString("en")} ${wordsOf(state)}`);
  return (
    <p class="row outcome">
      <span class={`tone ${toneOf(bad[0]![0])}`}>
        <Icon name={toneOf(bad[0]![0])} /> <b>{words.join(", ")}</b>
      </span>
      <button
        type="button"
        class="button small"
        onClick={() => setQuery({ tab: "groups", diff: null }, { replace: false })}
      >
        {bad.reduce((sum, [, count]) => sum + count, 0) === 1
          ? "See its output"
          : "See what they have in common"}
      </button>
    </p>
  );
}
