/** The tab Output: of one target (`on` in the address), or of all by arrival. */
import { Output } from "../log/output.tsx";
import { fitsChoice } from "../matrix/retries.ts";
import { Text } from "../parts/text.tsx";
import { query, setQuery } from "../router.tsx";
import * as selections from "../state/selection.ts";
import type { ExecutionView } from "./view.ts";
import "../style/log.css";

/** The change of the address that selects runs and shows them in the table. */
export function selectRuns(runs: readonly number[]): Record<string, string | null> {
  return { ...selections.toParams({ all: null, flipped: new Set(runs) }), tab: "targets" };
}

/** True if the run of this target has ended and not succeeded. */
function hasFailed(view: ExecutionView, name: string): boolean {
  const runs = view.runs.value;
  const row = runs?.rowNamed(name) ?? -1;
  return row >= 0 && fitsChoice(runs!, row, "unsuccessful");
}

export function OutputTab({ view }: { view: ExecutionView }) {
  const on = query.value.get("on") ?? "";
  const open = (name: string | null) => setQuery({ on: name }, { replace: false });
  return (
    <div class="stack-tight">
      {on && (
        <p class="row">
          <b>
            <Text of={on} />
          </b>
          <button type="button" class="button small" onClick={() => open(null)}>
            Show all targets
          </button>
        </p>
      )}
      <Output
        id={view.id}
        target={on}
        hasEnded={view.hasEnded}
        opensAtEnd={!view.hasEnded || hasFailed(view, on)}
        onTarget={open}
        onSelect={(runs) => setQuery(selectRuns(runs), { replace: false })}
      />
    </div>
  );
}
