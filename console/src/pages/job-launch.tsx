/** The form of one job: made from its parameters, with values in the URL, for people who only launch. */
import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { ExecuteDraft, Job, ParameterDraft } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { labelsOf } from "../jobs/labels.ts";
import { ParameterFields } from "../launch/parameter-fields.tsx";
import {
  executeBody,
  faultOf,
  isSecret,
  jobCommand,
  queryName,
  type Typed,
  typedOf,
} from "../launch/parameters.ts";
import { LaunchButton, Preview, usePreview } from "../launch/preview.tsx";
import { pickedOf, pickedQuery } from "../launch/selection.ts";
import { curlLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { Field } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { Picker } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { mayDo, onlyLaunches } from "../state/rights.ts";
import "../style/launch.css";

export default function JobLaunch({ id }: { id: string }) {
  const job = useResource((signal) => ask("GET /jobs/{id}", { path: { id }, signal }), [id]);
  return (
    <Loaded resource={job} what="the job" heading={`Launch job ${id}`}>
      {(found) =>
        mayDo("jobs:execute", labelsOf(found)) ? (
          <LaunchForm key={found.version} job={found} />
        ) : (
          <>
            <h1>
              Launch <Text of={found.name} />
            </h1>
            <Empty why="Your role does not hold jobs:execute for this job. Ask an administrator." />
          </>
        )
      }
    </Loaded>
  );
}

function LaunchForm({ job }: { job: Job }) {
  const [secrets, setSecrets] = useState<Typed>({});
  const [touched, setTouched] = useState<ReadonlySet<string>>(new Set());
  useEffect(() => {
    document.title = `Launch ${job.name} · opsjobs`;
  }, [job.name]);
  const typed: Typed = { ...typedOf(job, query.value), ...secrets };
  const picked = pickedOf(query.value);
  const reason = query.value.get("why") ?? "";
  const onInput = (parameter: ParameterDraft, text: string) => {
    setTouched(new Set([...touched, parameter.name]));
    const name = queryName(parameter);
    if (name === null) setSecrets({ ...secrets, [parameter.name]: text });
    else setQuery({ [name]: text });
  };
  const wrong = job.parameters.filter((one) => faultOf(one, typed[one.name] ?? "") !== null);
  const body = wrong.length ? null : executeBody(job, typed, picked, reason);
  const send = (asked: object, options: object) =>
    ask("POST /jobs/{id}/execute", {
      path: { id: String(job.id) },
      body: asked as ExecuteDraft,
      ...options,
    });
  const preview = usePreview(body, send);
  const incomplete = wrong.length
    ? `Fill in ${wrong.map((one) => one.label || one.name).join(", ")}.`
    : null;
  const hidden = job.parameters.some(isSecret);
  const copied = body && {
    command: jobCommand(job, typed, picked, reason),
    ...(hidden
      ? {}
      : { curl: curlLine("POST", `${location.origin}${PREFIX}/jobs/${job.id}/execute`, body) }),
  };
  return (
    <div class="stack">
      <div class="head">
        <h1>
          Launch <Text of={job.name} />
        </h1>
        {!onlyLaunches() && <Link to={`/jobs/${job.id}`}>Show the job</Link>}
      </div>
      {job.description && (
        <p class="dim">
          <Text of={job.description} />
        </p>
      )}
      <div class="launch">
        <div class="stack">
          {job.parameters.length > 0 && (
            <form class="form" onSubmit={(event) => event.preventDefault()}>
              <ParameterFields
                parameters={job.parameters}
                typed={typed}
                touched={touched}
                onInput={onInput}
              />
            </form>
          )}
          {mayDo("targets:read") && (
            <details open={Object.values(picked).some(Boolean)}>
              <summary>Only some of its targets</summary>
              <Picker picked={picked} ofJob onChange={(change) => setQuery(pickedQuery(change))} />
            </details>
          )}
          <Field label="Reason" hint="Stored with the execution">
            <input
              class="input"
              value={reason}
              maxLength={2_000}
              onInput={(event) => setQuery({ why: event.currentTarget.value })}
            />
          </Field>
        </div>
        <div class="stack">
          <Panel title="Preview" actions={copied && <CopyMenu of={copied} />}>
            <Preview resource={preview.resource} incomplete={incomplete} />
          </Panel>
          <LaunchButton
            preview={incomplete === null ? preview.answer : null}
            body={body}
            send={send}
          />
        </div>
      </div>
    </div>
  );
}
