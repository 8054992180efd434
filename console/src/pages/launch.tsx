/** Launch: run something now. */
import { useMemo } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { RunDraft } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { draftOf, type LaunchDraft, launchCommand, missing, runBody } from "../launch/draft.ts";
import { LaunchButton, Preview, usePreview } from "../launch/preview.tsx";
import { pickedQuery } from "../launch/selection.ts";
import { curlLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { Field } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { Picker, Resolved, useResolved, useSettled } from "../parts/picker.tsx";
import { Tabs } from "../parts/tabs.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import "../style/launch.css";

const INTERPRETERS = ["bash", "sh", "python", "powershell", "pwsh", "perl", "node"];
const JOBS_SHOWN = 20;

export default function Launch() {
  const draft = draftOf(query.value);
  const of = (content: () => preact.ComponentChildren) => () => <Ad draft={draft}>{content()}</Ad>;
  return (
    <div class="stack">
      <h1>Launch</h1>
      <Tabs
        label="What to launch"
        parameter="kind"
        tabs={[
          { name: "command", label: "Command", content: of(() => <CommandFields draft={draft} />) },
          { name: "script", label: "Script", content: of(() => <ScriptFields draft={draft} />) },
          { name: "file", label: "File", content: of(() => <FileFields draft={draft} />) },
          { name: "job", label: "Job", content: () => <JobChoice /> },
        ]}
      />
    </div>
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
          <Preview resource={preview} incomplete={missing(draft)} />
        </Panel>
        <LaunchButton
          preview={missing(draft) === null ? preview.data.value : null}
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
          <Empty why="No file has been uploaded that you may use.">
            <code>opsjobs files upload FILE</code>
          </Empty>
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
              label="Goes to"
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

/** How it runs. */
function How({ draft }: { draft: LaunchDraft }) {
  return (
    <fieldset class="form how">
      <legend>How</legend>
      {draft.kind !== "file" && (
        <Line label="As user" hint="By sudo; empty: the login" name="as" value={draft.user} />
      )}
      <Line label="At a time" hint="Targets; empty: 50" name="parallel" value={draft.parallel} />
      <Line label="Timeout" hint="Such as 60s" name="timeout" value={draft.timeout} />
      <Line label="Why" hint="Stored with the execution" name="why" value={draft.reason} />
    </fieldset>
  );
}

/** Jobs to launch: each has a form of its own. */
function JobChoice() {
  const typed = query.value.get("q") ?? "";
  const q = useSettled(typed, typed);
  const jobs = useResource(
    (signal) =>
      ask("GET /jobs", {
        query: { state: ["active"], limit: JOBS_SHOWN, sort: "name", ...(q && { q }) },
        signal,
      }),
    [q],
  );
  return (
    <div class="stack">
      <Line label="Job" hint="A part of its name or description" name="q" value={typed} />
      <Loaded resource={jobs} what="jobs">
        {({ items, next }) =>
          items.length === 0 ? (
            <Empty why={q ? "No job has this text." : "There is no job that you may launch."} />
          ) : (
            <ul class="entries">
              {items.map((job) => (
                <li key={job.id}>
                  <Link to={`/jobs/${job.id}/launch`}>
                    <b>
                      <Text of={job.name} />
                    </b>
                  </Link>
                  <span class="dim cut">
                    <Text of={job.description} />
                  </span>
                </li>
              ))}
              {next && <li class="dim">There are more: type a part of the name.</li>}
            </ul>
          )
        }
      </Loaded>
    </div>
  );
}
