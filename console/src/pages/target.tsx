/** One target: is it well, what ran on it, and what to do about it? */
import { useEffect } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { ShownTarget, TargetDetail, TargetPastRun } from "../api/types.ts";
import { Name } from "../execution/name-shown.tsx";
import { commandLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Tabs } from "../parts/tabs.tsx";
import { Text } from "../parts/text.tsx";
import { Duration, Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useListing } from "../state/listing.ts";
import { type Resource, useResource } from "../state/resource.ts";
import { inSight, mayDo } from "../state/rights.ts";
import { TargetActions } from "../targets/actions.tsx";
import { healthReason } from "../targets/health.ts";

const REFRESH_SECONDS = 15;

export default function Target({ id }: { id: string }) {
  const target = useResource((signal) => load(id, signal), [id], REFRESH_SECONDS);
  return (
    <Loaded resource={target} what="the target" heading={`Target ${id}`}>
      {(found) => <Shown target={found} resource={target} />}
    </Loaded>
  );
}

/** Load a target by its name, as people write it, or by its id. */
async function load(ref: string, signal: AbortSignal): Promise<TargetDetail> {
  const named = await ask("GET /targets", { query: { name: [ref], limit: 1 }, signal });
  return ask("GET /targets/{id}", { path: { id: named.items[0]?.id ?? ref }, signal });
}

function Shown({ target, resource }: { target: TargetDetail; resource: Resource<TargetDetail> }) {
  useEffect(() => {
    document.title = `${target.name} · opsjobs`;
  }, [target.name]);
  const { health } = target;
  return (
    <div class="stack">
      <div class="head">
        <h1>
          <Text of={target.name} />
        </h1>
        {health && <Status state={health.status} />}
        <span class="dim">
          <Text of={healthReason(health)} />
        </span>
        <div class="actions">
          <CopyMenu
            of={{ command: commandLine("opsjobs", "targets", "show", target.name), json: target }}
          />
        </div>
      </div>
      <TargetActions target={target} onChange={() => void resource.reload()} />
      <Tabs
        label="About the target"
        tabs={[
          ...(mayDo("executions:read")
            ? [{ name: "runs", label: "Runs", content: () => <Runs id={target.id} /> }]
            : []),
          { name: "details", label: "Details", content: () => <Details target={target} /> },
        ]}
      />
    </div>
  );
}

function Runs({ id }: { id: string }) {
  const list = useListing(
    (cursor, signal) =>
      ask("GET /targets/{id}/runs", { path: { id }, query: { cursor, limit: 50 }, signal }),
    [id],
    REFRESH_SECONDS,
  );
  return (
    <Loaded resource={list} what="runs">
      {({ items }) =>
        items.length ? (
          <Table
            label="Runs on this target"
            columns={COLUMNS}
            rows={items}
            keyOf={(run) => String(run.id)}
            onOpen={(run) => go(`/executions/${run.execution.id}`)}
            onMore={list.more}
            width={760}
          />
        ) : (
          <Empty why={`Nothing has run on it yet${inSight("executions:read")}.`} />
        )
      }
    </Loaded>
  );
}

const COLUMNS: readonly Column<TargetPastRun>[] = [
  {
    name: "execution",
    label: "Execution",
    width: "minmax(140px, 2fr)",
    cell: (run) => (
      <Link to={`/executions/${run.execution.id}`}>
        <Name of={run.execution} id={run.execution.id} />
      </Link>
    ),
  },
  {
    name: "status",
    label: "State",
    width: "minmax(136px, 1fr)",
    cell: (run) => <Status state={run.status} />,
  },
  {
    name: "what",
    label: "What",
    width: "minmax(160px, 3fr)",
    cell: (run) => <Text of={outcome(run)} />,
  },
  {
    name: "by",
    label: "By",
    width: "minmax(80px, 1fr)",
    cell: (run) => <Text of={run.execution.requested_by} />,
  },
  {
    name: "launched",
    label: "Launched",
    width: "minmax(90px, 1fr)",
    end: true,
    cell: (run) => <Time at={run.execution.created_at} ago />,
  },
  {
    name: "took",
    label: "Took",
    width: "90px",
    end: true,
    cell: (run) => <Duration since={run.started_at} until={run.finished_at} />,
  },
];

function outcome(run: TargetPastRun): string {
  if (run.error) return run.error.message;
  if (run.awaits) return run.awaits;
  return run.exit_code === null ? "" : `exit ${run.exit_code}`;
}

function Details({ target }: { target: ShownTarget }) {
  const labels = Object.entries(target.labels).map(([key, value]) => `${key}=${value}`);
  const rows: [string, string][] = [
    ["Address", `${target.host}:${target.port} over ${target.transport}`],
    ["Platform", target.platform],
    ["Login", target.credential ?? "none"],
    ["Jump host", target.jump ?? "none"],
    ["Labels", labels.join(", ") || "none"],
    ["Groups", target.groups.join(", ") || "none"],
    ["Zone", target.zone],
    ["Runs at a time", String(target.slots)],
    ["Host keys", `${target.host_key_policy}, ${target.host_keys.length} known`],
    ["Version", String(target.version)],
  ];
  return (
    <Panel title="Details">
      <dl class="facts">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              <Text of={value} />
            </dd>
          </div>
        ))}
      </dl>
    </Panel>
  );
}
