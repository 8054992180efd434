/** One group of equal results: its members, what they have written, and what can be done with it. */
import { ask } from "../api/ask.ts";
import type { ResultGroup, TargetRun } from "../api/types.ts";
import { copy, CopyButton } from "../parts/copy.tsx";
import { countWords } from "../parts/counts.ts";
import { Empty } from "../parts/empty.tsx";
import { durationWords } from "../parts/moment.ts";
import { SidePanel } from "../parts/side-panel.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useListing } from "../state/listing.ts";
import { GroupActions, type GroupActionsProps, Reason } from "./actions.tsx";
import { GroupRuns } from "./group-runs.tsx";
import { GroupOutput } from "./output.tsx";

const MEMBERS_A_PAGE = 50;
const LINES_SHOWN = 40;
const LIVE_SECONDS = 15;

/** How its targets ended, and how many there are. */
export function GroupHeading({ group }: { group: ResultGroup }) {
  const { count, exit_code, error_code } = group;
  return (
    <>
      <Status state={group.status} />
      {count.toLocaleString("en")} {count === 1 ? "target" : "targets"}
      {exit_code !== null && <span class="dim">exit {exit_code}</span>}
      {error_code && error_code !== "nonzero_exit" && <code>{error_code}</code>}
    </>
  );
}

interface GroupPanelProps extends Omit<GroupActionsProps, "group"> {
  digest: string;
  /** Null: no group has this result any more. */
  group: ResultGroup | null;
  /** Show one target. */
  onTarget: (name: string) => void;
  onClose: () => void;
}

export function GroupPanel({ digest, group, onTarget, onClose, ...of }: GroupPanelProps) {
  return (
    <SidePanel
      about={digest}
      label={group ? `Group of ${countWords(group.count, "target")}` : "Group"}
      title={<span class="row">{group ? <GroupHeading group={group} /> : "No such group"}</span>}
      actions={<CopyButton text={location.href} what="link to this group" />}
      onClose={onClose}
    >
      {group ? (
        <div class="body stack">
          <div class="row">
            <GroupActions group={group} {...of} />
            <GroupRuns
              id={of.id}
              group={group}
              compared={of.compared}
              label="Copy names"
              onRuns={(runs) => {
                const names = runs.map((run) => run.target.name).join("\n");
                void copy(names, `${runs.length.toLocaleString("en")} names`);
              }}
            />
          </div>
          <Reason group={group} />
          <GroupOutput id={of.id} group={group} shown={LINES_SHOWN} />
          <Members group={group} {...of} onTarget={onTarget} />
        </div>
      ) : (
        <Empty why="Its targets have another result by now, or others are compared: choose one of the groups." />
      )}
    </SidePanel>
  );
}

type MembersProps = Pick<GroupPanelProps, "id" | "compared" | "onTarget"> & {
  group: ResultGroup;
};

function Members({ id, group, compared, onTarget }: MembersProps) {
  const path = { id, digest: group.digest };
  const list = useListing(
    (cursor, signal) =>
      ask("GET /executions/{id}/groups/{digest}/targets", {
        path,
        query: { ...compared, cursor, limit: MEMBERS_A_PAGE },
        signal,
      }),
    [id, group.digest, compared.normalise],
    compared.running ? LIVE_SECONDS : null,
  );
  return (
    <section class="stack-tight">
      <h3>Members</h3>
      <Loaded resource={list} what="members">
        {({ items, next }) => (
          <ul class="entries">
            {items.map((run) => (
              <Member key={run.id} run={run} onTarget={onTarget} />
            ))}
            {next !== null && (
              <li>
                <button
                  type="button"
                  class="button small"
                  disabled={list.loadingMore.value}
                  onClick={() => void list.more()}
                >
                  Show more of {group.count.toLocaleString("en")}
                </button>
              </li>
            )}
          </ul>
        )}
      </Loaded>
    </section>
  );
}

function Member({ run, onTarget }: { run: TargetRun; onTarget: (name: string) => void }) {
  const { started_at, finished_at } = run;
  return (
    <li>
      <button type="button" class="button small plain" onClick={() => onTarget(run.target.name)}>
        <Text of={run.target.name} />
      </button>
      {run.target.host !== run.target.name && (
        <span class="small dim">
          <Text of={run.target.host} />
        </span>
      )}
      {run.attempt > 1 && <span class="small dim">attempt {run.attempt}</span>}
      {started_at && finished_at && (
        <span class="small dim">
          {durationWords(Date.parse(finished_at) - Date.parse(started_at))}
        </span>
      )}
    </li>
  );
}
