/** Groups of targets with the same result: which differ, and in what. */
import { ask } from "../api/ask.ts";
import type { ResultGroup } from "../api/types.ts";
import { Diff } from "../diff/diff.tsx";
import { Empty } from "../parts/empty.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { query, setQuery } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { GroupActions, type GroupActionsProps, Reason } from "./actions.tsx";
import { GroupOutput } from "./output.tsx";
import { GroupHeading, GroupPanel } from "./panel.tsx";

const GROUPS_SHOWN = 50;
const NAMES_SHOWN = 8;
const LIVE_SECONDS = 15;

export interface GroupsProps
  extends Pick<GroupActionsProps, "id" | "hasJob" | "onSelect" | "onRetry"> {
  hasEnded: boolean;
  /** Show one target. */
  onTarget: (name: string) => void;
}

/** Open the details of a group by its digest; null closes them. */
function openGroup(digest: string | null): void {
  setQuery({ in: digest }, { replace: false });
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
    // The end of the execution is no other list: what is open in it stays.
    [id, normalise],
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
          if (items.length === 0) return <Empty why="No target has a result to compare yet." />;
          const more = { id, largest: items[0]!, compared, hasJob, onSelect, onRetry, onTarget };
          // The panel of a target, beside all tabs, takes the place of the group's.
          const digest = query.value.has("target") ? null : query.value.get("in");
          return (
            <div class={digest ? "with-side" : ""}>
              <ul class="groups">
                {inOrder(items).map((group) => (
                  <Group
                    key={group.digest}
                    group={group}
                    isOpen={group.digest === digest}
                    {...more}
                  />
                ))}
                {next !== null && (
                  <li class="small dim">
                    There are more than {GROUPS_SHOWN} groups.{" "}
                    {!normalise && "Ignore names and numbers to have fewer."}
                  </li>
                )}
              </ul>
              {digest && (
                <GroupPanel
                  key={digest}
                  digest={digest}
                  group={items.find((one) => one.digest === digest) ?? null}
                  {...more}
                  onClose={() => openGroup(null)}
                />
              )}
            </div>
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

interface GroupProps extends GroupActionsProps, Pick<GroupsProps, "onTarget"> {
  /** Its panel is open. */
  isOpen: boolean;
}

function Group({ isOpen, onTarget, ...of }: GroupProps) {
  const { id, group } = of;
  return (
    <li class="panel">
      <header>
        <h2 class="row">
          <GroupHeading group={group} />
        </h2>
        <div class="actions">
          <GroupActions {...of} />
          <button
            type="button"
            class="button small"
            aria-pressed={isOpen}
            onClick={() => openGroup(isOpen ? null : group.digest)}
          >
            Details
          </button>
        </div>
      </header>
      <div class="body stack-tight">
        <Names group={group} onTarget={onTarget} />
        <Reason group={group} />
        <GroupOutput id={id} group={group} />
      </div>
    </li>
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
      {more > 0 && (
        <button type="button" class="button small plain" onClick={() => openGroup(group.digest)}>
          and {more.toLocaleString("en")} more
        </button>
      )}
    </p>
  );
}
