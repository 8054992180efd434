/** What can be done with a group of equal results, and why there is none. */
import type { ResultGroup } from "../api/types.ts";
import { LAST_GOOD } from "../diff/sides.ts";
import { Text } from "../parts/text.tsx";
import { setQuery } from "../router.tsx";
import { type Compared, type GroupRun, GroupRuns } from "./group-runs.tsx";

const idsOf = (runs: readonly GroupRun[]): number[] => runs.map((run) => run.id);

/** Why there is no result, such as a login that was refused. A command says so itself. */
export function Reason({ group }: { group: ResultGroup }) {
  if (!group.error_message || group.error_code === "nonzero_exit") return null;
  const of = group.count > 1 ? group.targets[0]?.name : undefined;
  return (
    <p>
      {of !== undefined && (
        <b>
          <Text of={of} />:{" "}
        </b>
      )}
      <Text of={group.error_message} />
    </p>
  );
}

export interface GroupActionsProps {
  /** Id of the execution. */
  id: string;
  group: ResultGroup;
  /** The group that the others are compared with. */
  largest: ResultGroup;
  compared: Compared;
  /** Its targets may have a last good run of the same job. */
  hasJob: boolean;
  /** Select these runs. */
  onSelect: (runs: readonly number[]) => void;
  /** Retry these runs; null: they cannot be retried, or not yet. */
  onRetry: ((runs: readonly number[]) => void) | null;
}

export function GroupActions(props: GroupActionsProps) {
  const { id, group, largest, compared, hasJob, onSelect, onRetry } = props;
  const runs = { id, group, compared };
  const count = group.count.toLocaleString("en");
  const first = group.targets[0]?.name ?? "";
  const open = (other: string) => setQuery({ diff: `${first}~${other}` }, { replace: false });
  return (
    <>
      {onRetry && group.status !== "succeeded" && (
        <GroupRuns
          {...runs}
          label={group.count === 1 ? "Retry this one …" : `Retry these ${count} …`}
          onRuns={(found) => onRetry(idsOf(found))}
        />
      )}
      {group.digest !== largest.digest && (
        <button
          type="button"
          class="button small cut"
          onClick={() => open(largest.targets[0]?.name ?? "")}
        >
          Compare with{" "}
          {largest.count > 1 ? (
            `the ${largest.count.toLocaleString("en")}`
          ) : (
            <Text of={largest.targets[0]?.name ?? ""} />
          )}
        </button>
      )}
      {hasJob && group.status !== "succeeded" && (
        <button type="button" class="button small" onClick={() => open(LAST_GOOD)}>
          Compare with last good run
        </button>
      )}
      <GroupRuns {...runs} label={`Select ${count}`} onRuns={(found) => onSelect(idsOf(found))} />
    </>
  );
}
