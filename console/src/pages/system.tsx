/** System: is opsjobs well? */
import { ask } from "../api/ask.ts";
import type { Integration, Queue, ServiceStatus, Worker } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { Facts } from "../parts/facts.tsx";
import { durationWords } from "../parts/moment.ts";
import { Panel } from "../parts/panel.tsx";
import { useTitle } from "../parts/shell.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useEvents } from "../state/events.ts";
import { useResource } from "../state/resource.ts";
import { bytesWords } from "../system/bytes.ts";

const SECONDS = 15;

export default function System() {
  const status = useResource((signal) => ask("GET /status", { signal }), [], SECONDS);
  useEvents(["worker.*", "circuit.*"], status.reload);
  const state = status.data.value?.status;
  useTitle(
    state === "degraded" ? "degraded · System" : "System",
    state === "degraded" ? "warn" : null,
  );
  return (
    <div class="stack">
      <h1>System</h1>
      <Loaded resource={status} what="the state of the service">
        {(data) => (
          <>
            <Health status={data} />
            <Panel title={`Workers (${data.workers.length})`} flush>
              {data.workers.length ? (
                <Table
                  label="Workers"
                  columns={WORKERS}
                  rows={data.workers}
                  keyOf={(worker) => worker.id}
                  width={640}
                />
              ) : (
                <Empty why="No worker is connected: nothing runs until one starts.">
                  <code>opsjobs worker</code>
                </Empty>
              )}
            </Panel>
            <Panel title="Queues" flush>
              {data.queues.length ? (
                <Table
                  label="Queues"
                  columns={QUEUES}
                  rows={data.queues}
                  keyOf={(queue) => queue.zone}
                  width={560}
                />
              ) : (
                <Empty why="No runs are queued in any zone." />
              )}
            </Panel>
            {data.integrations.length > 0 && (
              <Panel title="Connected services" flush>
                <Table
                  label="Connected services"
                  columns={INTEGRATIONS}
                  rows={data.integrations}
                  keyOf={(one) => `${one.name} ${one.host}`}
                  width={720}
                />
              </Panel>
            )}
            <Housekeeping status={data} />
          </>
        )}
      </Loaded>
    </div>
  );
}

function Health({ status }: { status: ServiceStatus }) {
  const { scheduler, database, schedules } = status;
  const late = scheduler.ticked_seconds_ago;
  return (
    <Panel
      title={
        <Status
          state={status.status === "ok" ? "completed" : "degraded"}
          label={status.status === "ok" ? "opsjobs is well" : "opsjobs is degraded"}
        />
      }
    >
      <div class="form">
        {status.reasons.map((reason) => (
          <p key={reason.code} class="tone warn">
            {reason.detail} <code>{reason.code}</code>
          </p>
        ))}
        <Facts
          facts={{
            opsjobs: `${status.version}, Python ${status.python}`,
            PostgreSQL: `${database.version}, schema ${database.schema ?? "none"}${database.schema === database.schema_needed ? "" : ` (needs ${database.schema_needed})`}`,
            Redis: status.redis + (status.redis_version ? `, ${status.redis_version}` : ""),
            Scheduler:
              scheduler.status === "ok"
                ? `ok, ${(late ?? 0).toFixed(0)} s ago`
                : `late: ${late === null ? "it never ran" : durationWords(late * 1_000)}. Schedules are fired by workers meanwhile.`,
            Schedules: `${schedules.total}, ${schedules.paused} paused, ${schedules.late} late`,
            "Event streams": String(status.streams),
          }}
        />
      </div>
    </Panel>
  );
}

const WORKERS: readonly Column<Worker>[] = [
  {
    name: "name",
    label: "Worker",
    width: "minmax(140px, 2fr)",
    cell: (one) => (
      <span class="row">
        <Status state={one.alive ? "completed" : "lost"} label="" />
        <Text of={one.name} />
      </span>
    ),
  },
  { name: "zone", label: "Zone", width: "minmax(80px, 1fr)", cell: (one) => one.zone },
  {
    name: "running",
    label: "Running",
    width: "120px",
    end: true,
    cell: (one) => `${one.running} of ${one.concurrency}`,
  },
  {
    name: "since",
    label: "Since",
    width: "minmax(120px, 1fr)",
    cell: (one) => <Time at={one.started_at} ago />,
  },
  {
    name: "lease",
    label: "Heartbeat",
    width: "minmax(120px, 1fr)",
    cell: (one) =>
      one.alive
        ? `${one.renewed_seconds_ago.toFixed(0)} s ago`
        : `lost, ${durationWords(one.renewed_seconds_ago * 1_000)} ago`,
  },
];

const QUEUES: readonly Column<Queue>[] = [
  { name: "zone", label: "Zone", width: "minmax(100px, 2fr)", cell: (one) => one.zone },
  { name: "ready", label: "Ready", width: "80px", end: true, cell: (one) => one.ready },
  { name: "waiting", label: "Waiting", width: "90px", end: true, cell: (one) => one.waiting },
  { name: "running", label: "Running", width: "90px", end: true, cell: (one) => one.running },
  { name: "workers", label: "Workers", width: "90px", end: true, cell: (one) => one.workers },
  {
    name: "oldest",
    label: "Oldest ready",
    width: "minmax(110px, 1fr)",
    end: true,
    cell: (one) =>
      one.oldest_ready_seconds === null ? "–" : durationWords(one.oldest_ready_seconds * 1_000),
  },
];

const INTEGRATIONS: readonly Column<Integration>[] = [
  {
    name: "name",
    label: "Service",
    width: "minmax(120px, 1fr)",
    cell: (one) => (
      <Status
        state={one.state === "ok" ? "completed" : one.state === "unused" ? "waiting" : "failed"}
        label={one.name}
      />
    ),
  },
  {
    name: "host",
    label: "Host",
    width: "minmax(140px, 1fr)",
    cell: (one) => <Text of={one.host} />,
  },
  { name: "state", label: "State", width: "90px", cell: (one) => one.state },
  {
    name: "waiting",
    label: "Waiting",
    width: "90px",
    end: true,
    cell: (one) => one.waiting ?? "–",
  },
  {
    name: "error",
    label: "Last error",
    width: "minmax(160px, 3fr)",
    cell: (one) => (one.last_error ? <Text of={one.last_error} /> : "–"),
  },
];

function Housekeeping({ status }: { status: ServiceStatus }) {
  const { storage, log } = status;
  const limit = (bytes: number) => (bytes ? ` of ${bytesWords(bytes)}` : "");
  return (
    <Panel title="Storage and housekeeping">
      <Facts
        facts={{
          Database: bytesWords(storage.database_bytes),
          Log: `${bytesWords(storage.log_bytes)} in ${log.partitions} days, ${log.days_ahead} days made ahead`,
          Files: bytesWords(storage.file_bytes) + limit(storage.file_bytes_limit),
          "Output of an action": `at most ${bytesWords(storage.output_bytes_limit)}`,
          "Events to publish": status.events_unpublished.toLocaleString("en"),
          "Oldest transaction": durationWords(status.oldest_snapshot_seconds * 1_000),
        }}
      />
    </Panel>
  );
}
