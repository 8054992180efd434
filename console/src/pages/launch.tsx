/** Launch: run something now. */
import { useMemo } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { RunDraft } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { draftOf, type LaunchDraft, launchCommand, missing, runBody } from "../launch/draft.ts";
import { JobToLaunch } from "../launch/job-to-launch.tsx";
import { LaunchButton, Preview, usePreview } from "../launch/preview.tsx";
import { pickedQuery } from "../launch/selection.ts";
import { curlLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { Field } from "../parts/form.tsx";
import { useFieldFocus } from "../parts/heading-focus.ts";
import { Panel } from "../parts/panel.tsx";
import { Picker, Resolved, useResolved } from "../parts/picker.tsx";
import { Tabs } from "../parts/tabs.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
import "../style/launch.css";

const INTERPRETERS = ["bash", "sh", "python", "powershell", "pwsh", "perl", "node"];

export default function Launch() {
  const draft = draftOf(query.value);
  useFieldFocus();
  const of = (content: () => preact.ComponentChildren) => () => <Ad draft={draft}>{content()}</Ad>;
  // Targets that one may not see cannot be picked: a job has its own.
  if (!mayDo("commands:run") || !mayDo("targets:read"))
    return (
      <div class="stack">
        <h1>Launch</h1>
        <Limits />
        {mayLaunchJobs() && <JobToLaunch />}
      </div>
    );
  return (
    <div class="stack">
      <h1>Launch</h1>
      <Tabs
        label="What to launch"
        parameter="kind"
        tabs={[
          { name: "command", label: "Command", content: of(() => <CommandFields draft={draft} />) },
          { name: "script", label: "Script", content: of(() => <ScriptFields draft={draft} />) },
          ...(mayDo("jobs:read")
            ? [{ name: "file", label: "File", content: of(() => <FileFields draft={draft} />) }]
            : []),
          ...(mayLaunchJobs()
            ? [{ name: "job", label: "Job", content: () => <JobToLaunch /> }]
            : []),
        ]}
      />
    </div>
  );
}

/** Jobs that one may not see cannot be chosen. */
const mayLaunchJobs = () => mayDo("jobs:read") && mayDo("jobs:execute");

/** What the person may not launch here, and the permission that it takes. */
function Limits() {
  if (mayDo("commands:run"))
    return (
      <p class="dim">
        You may run commands. Choosing their targets here takes the permission targets:read: ask an
        administrator.
      </p>
    );
  return (
    <p class="dim">
      You may launch stored jobs. Other commands take the permission commands:run: ask an
      administrator.
      {!mayLaunchJobs() && " Choosing a job here takes the permission jobs:read."}
    </p>
  );
}

const send = (body: object, options: object) =>
  ask("POST /run", { body: body as RunDraft, ...options });

/** What is launched without a stored job: its fields, its targets, how, and the preview. */
function Ad({ draft, children }: { draft: LaunchDraft; children: preact.ComponentChildren }) {
  const body = useMemo(() => runBody(draft), [JSON.stringify(draft)]);
  const preview = usePreview(body as Record<string, unknown> | null, send);
  const resolved = useResolved(draft.picked);
  const copied = body && {
    command: launchCommand(draft) ?? undefined,
    curl: curlLine("POST", `${location.origin}${PREFIX}/run`, body),
    json: body,
  };
  return (
    <div class="launch">
      <div class="stack">
        {children}
        <Picker picked={draft.picked} onChange={(change) => setQuery(pickedQuery(change))} />
        <How draft={draft} />
      </div>
      <div class="stack">
        <Panel title="Targets">
          <Resolved resource={resolved} picked={draft.picked} />
        </Panel>
        <Panel title="Preview" actions={copied && <CopyMenu of={copied as object} />}>
          <Preview resource={preview.resource} incomplete={missing(draft)} />
        </Panel>
        <LaunchButton
          preview={missing(draft) === null ? preview.answer : null}
          body={body as Record<string, unknown> | null}
          send={send}
        />
      </div>
    </div>
  );
}

interface InputProps {
  label: string;
  hint?: string;
  name: string;
  value: string;
  mono?: boolean;
  placeholder?: string;
}

/** A line that stands in the URL under its name. */
function Line({ label, hint, name, value, mono, placeholder }: InputProps) {
  return (
    <Field label={label} hint={hint}>
      <input
        class={mono ? "input mono" : "input"}
        value={value}
        placeholder={placeholder}
        autoComplete="off"
        spellcheck={!mono}
        onInput={(event) => setQuery({ [name]: event.currentTarget.value })}
      />
    </Field>
  );
}

function CommandFields({ draft }: { draft: LaunchDraft }) {
  return (
    <Field label="Command" hint="One line for the shell of each target">
      <textarea
        class="input"
        rows={2}
        data-begin
        value={draft.command}
        spellcheck={false}
        placeholder="systemctl is-active nginx"
        onInput={(event) => setQuery({ command: event.currentTarget.value })}
      />
    </Field>
  );
}

function ScriptFields({ draft }: { draft: LaunchDraft }) {
  return (
    <>
      <Field label="Script">
        <textarea
          class="input"
          rows={10}
          data-begin
          value={draft.script}
          spellcheck={false}
          onInput={(event) => setQuery({ script: event.currentTarget.value })}
        />
      </Field>
      <Field label="Interpreter">
        <select
          class="input"
          value={draft.interpreter}
          onChange={(event) => setQuery({ interpreter: event.currentTarget.value })}
        >
          {INTERPRETERS.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      </Field>
    </>
  );
}

function FileFields({ draft }: { draft: LaunchDraft }) {
  const files = useResource((signal) => ask("GET /files", { query: { limit: 200 }, signal }), []);
  return (
    <Loaded resource={files} what="files">
      {({ items }) =>
        items.length === 0 ? (
          <NoFiles />
        ) : (
          <>
            <Field label="File">
              <select
                class="input"
                value={draft.source}
                onChange={(event) => setQuery({ source: event.currentTarget.value })}
              >
                <option value="">Choose one</option>
                {items.map((file) => (
                  <option key={file.id} value={file.name}>
                    {file.name}
                  </option>
                ))}
              </select>
            </Field>
            <Line
              label="Destination"
              name="to"
              value={draft.destination}
              mono
              placeholder="/tmp/file"
            />
          </>
        )
      }
    </Loaded>
  );
}

function NoFiles() {
  return (
    <Empty why="There are no files yet.">
      {mayDo("jobs:execute") ? (
        <Link class="button" to="/files">
          Upload a file
        </Link>
      ) : (
        <p>Uploading one takes the permission jobs:execute: ask an administrator.</p>
      )}
    </Empty>
  );
}

/** How it runs. */
function How({ draft }: { draft: LaunchDraft }) {
  return (
    <fieldset class="form how">
      <legend>How</legend>
      {draft.kind !== "file" && (
        <Line
          label="As user"
          hint="With sudo; empty: the login user"
          name="as"
          value={draft.user}
        />
      )}
      <Line
        label="Parallel"
        hint="Targets at a time; empty: 50"
        name="parallel"
        value={draft.parallel}
      />
      <Line label="Timeout" hint="Such as 60s" name="timeout" value={draft.timeout} />
      <Line label="Reason" hint="Stored with the execution" name="why" value={draft.reason} />
    </fieldset>
  );
}
