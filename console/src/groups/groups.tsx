/** Groups of targets with the same result: which differ, and in what. */
import { ask } from "../api/ask.ts";
import type { ResultGroup } from "../api/types.ts";
import { Diff } from "../diff/diff.tsx";
import { LAST_GOOD } from "../diff/sides.ts";
import { Empty } from "../parts/empty.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { query, setQuery } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { type Compared, GroupRuns } from "./group-runs.tsx";
import { GroupOutput } from "./output.tsx";

const GROUPS_SHOWN = 50;
const NAMES_SHOWN = 8;
const LIVE_SECONDS = 15;

export interface GroupsProps {
  /** Id of the execution. */
  id: string;
  hasEnded: boolean;
  /** Its targets may have a last good run of the same job. */
  hasJob: boolean;
  /** Select these runs. */
  onSelect: (runs: readonly number[]) => void;
  /** Retry these runs; null: they cannot be retried, or not yet. */
  onRetry: ((runs: readonly number[]) => void) | null;
  /** Show one target. */
  onTarget: (name: string) => void;
}

export function Groups({ id, hasEnded, hasJob, onSelect, onRetry, onTarget }: GroupsProps) {
  const normalise = query.value.get("normalise") === "1";
  const compared = { normalise, running: !hasEnded };
  const groups = useResource(
    (signal) =>
      ask("GET /executions/{id}/groups", {
        path: { id },
        query: { ...compared, members: NAMES_SHOWN, limit: GROUPS_SHOWN },
        signal,
      }),
    [id, normalise, hasEnded],
    hasEnded ? null : LIVE_SECONDS,
  );
  const [left, right] = (query.value.get("diff") ?? "").split("~");
  if (left && right) return <Diff id={id} left={left} right={right} />;
  return (
    <div class="stack-tight">
      <div class="row groups-bar">
        <button
          type="button"
          class="button small"
          aria-pressed={normalise}
          title="The machine's own name, numbers, times and hex"
          onClick={() => setQuery({ normalise: normalise ? null : "1" })}
        >
          Ignore names and numbers
        </button>
      </div>
      <Loaded resource={groups} what="groups">
        {({ items, next }) => {
          if (items.length === 0) return <Empty why="No target is there to compare yet." />;
          const more = { id, largest: items[0]!, compared, hasJob, onSelect, onRetry, onTarget };
          return (
            <ul class="groups">
              {inOrder(items).map((group) => (
                <Group key={group.digest} group={group} {...more} />
              ))}
              {next !== null && (
                <li class="small dim">
                  There are more than {GROUPS_SHOWN} groups.{" "}
                  {!normalise && "Ignore names and numbers to have fewer."}
                </li>
              )}
            </ul>
          );
        }}
      </Loaded>
    </div>
  );
}

/** What failed comes first, the largest group of each kind before the others. */
function inOrder(groups: readonly ResultGroup[]): ResultGroup[] {
  const isGood = (group: ResultGroup): number => (group.status === "succeeded" ? 1 : 0);
  return [...groups].sort((a, b) => isGood(a) - isGood(b) || b.count - a.count);
}

interface GroupProps
  extends Pick<GroupsProps, "id" | "hasJob" | "onSelect" | "onRetry" | "onTarget"> {
  group: ResultGroup;
  largest: ResultGroup;
  compared: Compared;
}

function Group({ group, onTarget, ...more }: GroupProps) {
  return (
    <li class="panel">
      <header>
        <h2 class="row">
          <Status state={group.status} />
          {group.count.toLocaleString("en")} {group.count === 1 ? "target" : "targets"}
          {group.exit_code !== null && <span class="dim">exit {group.exit_code}</span>}
          {group.error_code && group.error_code !== "nonzero_exit" && (
            <code>{group.error_code}</code>
          )}
        </h2>
        <Actions group={group} {...more} />
      </header>
      <div class="body stack-tight">
        <Names group={group} onTarget={onTarget} />
        <Reason group={group} />
        <GroupOutput id={more.id} group={group} />
      </div>
    </li>
  );
}

/** Why there is no result, such as a login that was refused. A command says so itself. */
function Reason({ group }: { group: ResultGroup }) {
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

function Actions(props: Omit<GroupProps, "onTarget">) {
  const { id, group, largest, compared, hasJob, onSelect, onRetry } = props;
  const runs = { id, group, compared };
  const count = group.count.toLocaleString("en");
  const first = group.targets[0]?.name ?? "";
  const open = (other: string) => setQuery({ diff: `${first}~${other}` }, { replace: false });
  return (
    <div class="actions">
      {onRetry && group.status !== "succeeded" && (
        <GroupRuns
          {...runs}
          label={group.count === 1 ? "Retry this one …" : `Retry these ${count} …`}
          onRuns={onRetry}
        />
      )}
      {group.digest !== largest.digest && (
        <button
          type="button"
          class="button small cut"
          onClick={() => open(largest.targets[0]?.name ?? "")}
        >
          Diff to{" "}
          {largest.count > 1 ? (
            `the ${largest.count.toLocaleString("en")}`
          ) : (
            <Text of={largest.targets[0]?.name ?? ""} />
          )}
        </button>
      )}
      {hasJob && group.status !== "succeeded" && (
        <button type="button" class="button small" onClick={() => open(LAST_GOOD)}>
          Diff to last good
        </button>
      )}
      <GroupRuns {...runs} label={`Select ${count}`} onRuns={onSelect} />
    </div>
  );
}

function Names({ group, onTarget }: Pick<GroupProps, "group" | "onTarget">) {
  const more = group.count - group.targets.length;
  return (
    <p class="row small">
      {group.targets.map((target) => (
        <button
          key={target.id}
          type="button"
          class="button small plain"
          onClick={() => onTarget(target.name)}
        >
          <Text of={target.name} />
        </button>
      ))}
      {more > 0 && <span class="dim">and {more.toLocaleString("en")} more</span>}
    </p>
  );
}
