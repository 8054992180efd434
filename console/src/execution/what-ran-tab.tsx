/** The tab What ran: what the launch fixed, and what the job has become since. */
import { ask } from "../api/ask.ts";
import type { Execution, JobVersion, Specification } from "../api/types.ts";
import { CopyButton } from "../parts/copy.tsx";
import { Panel } from "../parts/panel.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { changesOf, type Change, textOf } from "./changes.ts";
import { Findings } from "./findings.tsx";
import type { ExecutionView } from "./view.ts";

interface Versions {
  ran: JobVersion | null;
  newest: JobVersion | null;
}

/** Fields of an action that are shown on their own; the others are in the list below. */
const TEXTS = ["command", "script"];
const NAMES = ["key", "type", ...TEXTS];
/** What actions and policies have that do not say otherwise; left out. */
const DEFAULTS: Readonly<Record<string, string>> = {
  scope: "target",
  durable: "auto",
  outputs: "none",
  on_failure: "stop",
  expected_exit_codes: "[0]",
  order: "inventory",
  on_lost: "ask",
  priority: "5",
  hold_offline: "0s",
};

export function WhatRanTab({ view, execution }: { view: ExecutionView; execution: Execution }) {
  const spec = useResource(
    (signal) => ask("GET /executions/{id}/spec", { path: { id: view.id }, signal }),
    [view.id],
  );
  return (
    <div class="stack">
      <Loaded resource={spec} what="what was launched">
        {(found) => <Fixed spec={found} />}
      </Loaded>
      {execution.findings.length > 0 && (
        <Panel title={`Safety check: ${execution.verdict ?? "not made"}`}>
          <Findings findings={execution.findings} />
        </Panel>
      )}
      {execution.job_id !== null && <Since execution={execution} />}
    </div>
  );
}

function Fixed({ spec }: { spec: Specification }) {
  const parameters = Object.entries(spec.parameters);
  return (
    <>
      <Panel
        title={`${spec.actions.length} ${spec.actions.length === 1 ? "action" : "actions"}`}
        actions={<CopyButton text={JSON.stringify(spec, null, 2)} what="JSON" />}
      >
        <ol class="stack">
          {spec.actions.map((action) => (
            <li key={String(action["key"])}>
              <ActionText action={action} />
            </li>
          ))}
        </ol>
      </Panel>
      {parameters.length > 0 && (
        <Panel title="Parameters">
          <Values of={spec.parameters} />
        </Panel>
      )}
      <Panel title="Policy">
        <Values of={spec.policy} />
      </Panel>
    </>
  );
}

function ActionText({ action }: { action: Record<string, unknown> }) {
  const others = Object.fromEntries(
    Object.entries(action).filter(([name]) => !NAMES.includes(name)),
  );
  return (
    <>
      <p class="row">
        <b>
          <Text of={String(action["key"])} />
        </b>
        <span class="dim">{String(action["type"] ?? "command").replaceAll("_", " ")}</span>
      </p>
      {TEXTS.filter((name) => typeof action[name] === "string").map((name) => (
        <pre key={name} class="command">
          <Text of={String(action[name])} />
        </pre>
      ))}
      <Values of={others} />
    </>
  );
}

/** Names and values; those that were not set are left out. */
function Values({ of }: { of: Record<string, unknown> }) {
  const set = Object.entries(of).filter(
    ([name, value]) => !isUnset(value) && textOf(value) !== DEFAULTS[name],
  );
  if (set.length === 0) return <p class="small dim">Everything else has its default.</p>;
  return (
    <dl class="values">
      {set.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd class="mono">
            <Text of={textOf(value)} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

function isUnset(value: unknown): boolean {
  if (value === null || value === undefined || value === "") return true;
  return typeof value === "object" && Object.keys(value).length === 0;
}

/** What has been changed in the job since this launch. */
function Since({ execution }: { execution: Execution }) {
  const { job_id, job_version } = execution;
  const versions = useResource(
    async (signal): Promise<Versions> => {
      const path = { id: String(job_id) };
      const [ran, newest] = await Promise.all([
        ask("GET /jobs/{id}/versions", { path, query: { version: [String(job_version)] }, signal }),
        ask("GET /jobs/{id}/versions", { path, query: { limit: 1 }, signal }),
      ]);
      return { ran: ran.items[0] ?? null, newest: newest.items[0] ?? null };
    },
    [job_id, job_version],
  );
  return (
    <Panel title="Changed since">
      <Loaded resource={versions} what="the job's versions">
        {({ ran, newest }) => {
          if (!ran || !newest) return <p class="dim">The job has no such version any more.</p>;
          if (ran.version === newest.version) {
            return <p>Nothing: this ran version {ran.version}, which is the newest.</p>;
          }
          return <Changes ran={ran} newest={newest} job={String(job_id)} />;
        }}
      </Loaded>
    </Panel>
  );
}

function Changes({ ran, newest, job }: { ran: JobVersion; newest: JobVersion; job: string }) {
  const changes = changesOf(ran, newest);
  return (
    <>
      <p>
        This ran version {ran.version}; <Link to={`/jobs/${job}`}>the job</Link> has version{" "}
        {newest.version} of <Text of={newest.created_by} />.
      </p>
      <ul class="changes mono">
        {changes.map((change) => (
          <ChangeRow key={change.path} change={change} />
        ))}
      </ul>
    </>
  );
}

function ChangeRow({ change }: { change: Change }) {
  return (
    <li>
      <span class="dim">{change.path}</span>
      {change.before !== undefined && (
        <del>
          − <Text of={change.before} />
        </del>
      )}
      {change.after !== undefined && (
        <ins>
          + <Text of={change.after} />
        </ins>
      )}
    </li>
  );
}
