/** One job: what it does, how it fares, who changed it, when it runs. */
import { useEffect } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Job as JobAnswer, JobVersion } from "../api/types.ts";
import { lineDiff, toYaml } from "../jobs/definition.ts";
import { labelsOf } from "../jobs/labels.ts";
import { commandLine } from "../parts/command-line.ts";
import { CopyButton, CopyMenu } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { RecentStrip } from "../parts/recent.tsx";
import { Status } from "../parts/status.tsx";
import { Tabs } from "../parts/tabs.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
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

function Shown({ job, resource }: { job: JobAnswer; resource: Resource<JobAnswer> }) {
  useEffect(() => {
    document.title = `${job.name} · opsjobs`;
  }, [job.name]);
  const labels = labelsOf(job);
  const paused = job.state === "paused";
  const toggle = async () => {
    const path = { id: String(job.id) };
    if (paused) await ask("POST /jobs/{id}/resume", { path });
    else await ask("POST /jobs/{id}/pause", { path });
    toast(paused ? "The job can be executed again." : "New executions are refused.");
    await resource.reload();
  };
  return (
    <div class="stack">
      <div class="head">
        <h1>
          <Text of={job.name} />
        </h1>
        <Status state={paused ? "paused" : job.status} />
        <span class="dim">version {job.version}</span>
        <div class="actions">
          {job.state === "active" && mayDo("jobs:execute", labels) && (
            <Link class="button primary" to={`/jobs/${job.id}/launch`}>
              Launch …
            </Link>
          )}
          {job.state !== "draft" && mayDo("jobs:update", labels) && (
            <button type="button" class="button" onClick={() => void toggle()}>
              {paused ? "Resume" : "Pause"}
            </button>
          )}
          <CopyMenu of={{ command: commandLine("opsjobs", "jobs", "show", job.name), json: job }} />
        </div>
      </div>
      {job.description && (
        <p class="dim">
          <Text of={job.description} />
        </p>
      )}
      <Recent job={job} />
      <Tabs
        label="About the job"
        tabs={[
          { name: "definition", label: "Definition", content: () => <Definition job={job} /> },
          { name: "versions", label: "Versions", content: () => <Versions job={job} /> },
          ...(mayDo("schedules:read")
            ? [{ name: "schedules", label: "Schedules", content: () => <Schedules job={job} /> }]
            : []),
        ]}
      />
    </div>
  );
}

function Recent({ job }: { job: JobAnswer }) {
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

function Definition({ job }: { job: JobAnswer }) {
  const yaml = useResource(
    async (signal) => {
      // As it was written: without what is the default.
      const path = { id: String(job.id) };
      return toYaml(await ask("GET /jobs/{id}/definition", { path, signal }));
    },
    [job.version],
  );
  return (
    <Loaded resource={yaml} what="the definition">
      {(text) => (
        <Panel title="As YAML" actions={<CopyButton text={text} what="definition" />}>
          <pre class="definition">
            <Text of={text} />
          </pre>
          {mayDo("jobs:update", labelsOf(job)) && (
            <p class="small dim">
              To change it:{" "}
              <code>{commandLine("opsjobs", "jobs", "export", job.name)} &gt; job.yaml</code>, edit,{" "}
              <code>opsjobs jobs apply -f job.yaml</code>
            </p>
          )}
        </Panel>
      )}
    </Loaded>
  );
}

function Versions({ job }: { job: JobAnswer }) {
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
  const diff = useResource(
    async () => lineDiff(before === null ? "" : await toYaml(before), await toYaml(version)),
    [version.version, before?.version],
  );
  const title = before === null ? `Version ${version.version}` : `Changed since ${before.version}`;
  return (
    <Panel title={title}>
      <Loaded resource={diff} what="the difference">
        {(lines) => (
          <pre class="definition">
            {lines.map((line, index) => (
              <span key={index} class={`diff-line tone ${toneOfSign(line.sign)}`}>
                {line.sign} <Text of={line.text} />
                {"\n"}
              </span>
            ))}
          </pre>
        )}
      </Loaded>
    </Panel>
  );
}

const toneOfSign = (sign: string) => ({ "+": "ok", "−": "bad" })[sign] ?? "";

function Schedules({ job }: { job: JobAnswer }) {
  const schedules = useResource(
    (signal) =>
      ask("GET /jobs/{id}/schedules", {
        path: { id: String(job.id) },
        query: { limit: 200 },
        signal,
      }),
    [job.id],
    REFRESH_SECONDS,
  );
  return (
    <Loaded resource={schedules} what="schedules">
      {({ items }) =>
        items.length ? (
          <ul class="entries">
            {items.map((one) => (
              <li key={one.id}>
                <Link to={`/schedules/${one.id}`}>
                  <b>
                    <Text of={one.name} />
                  </b>
                </Link>
                <span class="dim">{one.words}</span>
                {one.enabled ? <Time at={one.next_due_at} /> : <Status state="paused" />}
              </li>
            ))}
          </ul>
        ) : (
          <Empty why="It has no schedule: it runs only when it is launched.">
            {mayDo("schedules:manage", labelsOf(job)) && (
              <code>
                {commandLine("opsjobs", "schedules", "add", job.name, "--daily", "02:30")}
              </code>
            )}
          </Empty>
        )
      }
    </Loaded>
  );
}
