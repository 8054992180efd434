/** One job: what it does, how it fares, who changed it, when it runs. */
import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { JobDetail, JobVersion } from "../api/types.ts";
import { toYaml, writtenYaml } from "../jobs/definition.ts";
import { DiffLines } from "../jobs/diff-lines.tsx";
import { NotificationsTab } from "../jobs/notifications-tab.tsx";
import { SchedulesTab } from "../jobs/schedules-tab.tsx";
import { TriggersTab } from "../jobs/triggers-tab.tsx";
import { Act } from "../parts/act.tsx";
import { useAttempt } from "../parts/attempt.tsx";
import { commandLine } from "../parts/command-line.ts";
import { CopyButton, CopyMenu } from "../parts/copy.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Panel } from "../parts/panel.tsx";
import { RecentStrip } from "../parts/recent.tsx";
import { saveText } from "../parts/save-text.ts";
import { Status } from "../parts/status.tsx";
import { Tabs } from "../parts/tabs.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link, query, setQuery } from "../router.tsx";
import { type Resource, useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
import "../style/launch.css";

const REFRESH_SECONDS = 15;
const RECENT = 30;
const VERSIONS = 100;

export default function Job({ id }: { id: string }) {
  const job = useResource(
    (signal) => ask("GET /jobs/{id}", { path: { id }, signal }),
    [id],
    REFRESH_SECONDS,
  );
  return (
    <Loaded resource={job} what="the job" heading={`Job ${id}`}>
      {(found) => <Shown job={found} resource={job} />}
    </Loaded>
  );
}

function Shown({ job, resource }: { job: JobDetail; resource: Resource<JobDetail> }) {
  useEffect(() => {
    document.title = `${job.name} · opsjobs`;
  }, [job.name]);
  const paused = job.state === "paused";
  const [deleting, setDeleting] = useState(false);
  const { busy, trouble, attempt } = useAttempt();
  const toggle = () =>
    attempt(async () => {
      const path = { id: String(job.id) };
      if (paused) await ask("POST /jobs/{id}/resume", { path });
      else await ask("POST /jobs/{id}/pause", { path });
      toast(paused ? "The job can be executed again." : "New executions are refused.");
      await resource.reload();
    });
  return (
    <div class="stack">
      <div class="head">
        <h1>
          <Text of={job.name} />
        </h1>
        <Status state={paused ? "paused" : job.status} />
        <span class="dim">version {job.version}</span>
        <div class="actions">
          {job.can.includes("execute") ? (
            <Link class="button primary" to={`/jobs/${job.id}/launch`}>
              Launch …
            </Link>
          ) : (
            <Act of={job} action="execute" onAct={() => {}}>
              Launch …
            </Act>
          )}
          {job.can.includes("update") && (
            <Link class="button" to={`/jobs/${job.id}/edit`}>
              Edit …
            </Link>
          )}
          <Act of={job} action={paused ? "resume" : "pause"} busy={busy} onAct={toggle}>
            {paused ? "Resume" : "Pause"}
          </Act>
          {job.can.includes("clone") && (
            <Link class="button" to={`/jobs/new?from=${job.id}`}>
              Copy as new …
            </Link>
          )}
          <Act of={job} action="delete" kind="danger" onAct={() => setDeleting(true)}>
            Delete …
          </Act>
          <CopyMenu of={{ command: commandLine("opsjobs", "jobs", "show", job.name), json: job }} />
        </div>
      </div>
      {trouble}
      {job.description && (
        <p class="dim">
          <Text of={job.description} />
        </p>
      )}
      {deleting && <DeleteJob job={job} onClose={() => setDeleting(false)} />}
      <Recent job={job} />
      <Tabs
        label="About the job"
        tabs={[
          { name: "definition", label: "Definition", content: () => <Definition job={job} /> },
          { name: "versions", label: "Versions", content: () => <Versions job={job} /> },
          ...(mayDo("schedules:read")
            ? [{ name: "schedules", label: "Schedules", content: () => <SchedulesTab job={job} /> }]
            : []),
          ...(mayDo("triggers:read")
            ? [{ name: "triggers", label: "Triggers", content: () => <TriggersTab job={job} /> }]
            : []),
          {
            name: "notifications",
            label: "Notifications",
            content: () => <NotificationsTab job={job} onChange={resource.reload} />,
          },
        ]}
      />
    </div>
  );
}

function DeleteJob({ job, onClose }: { job: JobDetail; onClose: () => void }) {
  return (
    <Confirm
      title={`Delete ${job.name}?`}
      verb="Delete"
      danger
      onClose={onClose}
      onConfirm={async () => {
        await ask("DELETE /jobs/{id}", { path: { id: String(job.id) } });
        toast(`${job.name} was deleted`);
        go("/jobs");
      }}
    >
      <p>Its schedules and triggers are deleted, too. Its executions stay.</p>
    </Confirm>
  );
}

function Recent({ job }: { job: JobDetail }) {
  const listed = useResource(
    (signal) => ask("GET /jobs", { query: { id: [String(job.id)], recent: RECENT }, signal }),
    [job.id],
    REFRESH_SECONDS,
  );
  return (
    <Panel
      title="Last 30 executions"
      actions={
        mayDo("executions:read") && (
          <Link to={`/executions?q=job-id:${job.id}`}>All executions</Link>
        )
      }
    >
      <Loaded resource={listed} what="executions">
        {({ items }) => <RecentStrip recent={items[0]?.recent ?? []} links />}
      </Loaded>
    </Panel>
  );
}

function Definition({ job }: { job: JobDetail }) {
  const yaml = useResource((signal) => writtenYaml(job, signal), [job.version]);
  return (
    <Loaded resource={yaml} what="the definition">
      {(text) => (
        <Panel
          title="As YAML"
          actions={
            <>
              <button
                type="button"
                class="button small"
                onClick={() => saveText(text, job.name, "yaml")}
              >
                Download
              </button>
              <CopyButton text={text} what="definition" />
            </>
          }
        >
          <pre class="definition">
            <Text of={text} />
          </pre>
          <p class="small dim">
            Jobs that are kept in Git are changed there: <code>opsjobs jobs apply -f job.yaml</code>
          </p>
        </Panel>
      )}
    </Loaded>
  );
}

function Versions({ job }: { job: JobDetail }) {
  const versions = useResource(
    (signal) =>
      ask("GET /jobs/{id}/versions", {
        path: { id: String(job.id) },
        query: { limit: VERSIONS },
        signal,
      }),
    [job.id, job.version],
  );
  return (
    <Loaded resource={versions} what="versions">
      {({ items }) => {
        const wanted = Number(query.value.get("version") ?? job.version);
        const at = Math.max(
          0,
          items.findIndex((one) => one.version === wanted),
        );
        return (
          <div class="launch">
            <ul class="entries">
              {items.map((one) => (
                <li key={one.version}>
                  <button
                    type="button"
                    class="button small"
                    aria-pressed={one === items[at]}
                    onClick={() => setQuery({ version: String(one.version) }, { replace: false })}
                  >
                    Version {one.version}
                  </button>
                  <span class="dim">
                    <Text of={one.created_by} />, <Time at={one.created_at} ago />
                  </span>
                </li>
              ))}
            </ul>
            {items[at] && <Change version={items[at]} before={items[at + 1] ?? null} />}
          </div>
        );
      }}
    </Loaded>
  );
}

/** What a version changed. */
function Change({ version, before }: { version: JobVersion; before: JobVersion | null }) {
  const texts = useResource(
    async () => [before === null ? "" : await toYaml(before), await toYaml(version)] as const,
    [version.version, before?.version],
  );
  const title = before === null ? `Version ${version.version}` : `Changed since ${before.version}`;
  return (
    <Loaded resource={texts} what="the difference">
      {([old, now]) => <DiffLines title={title} before={old} after={now} />}
    </Loaded>
  );
}
