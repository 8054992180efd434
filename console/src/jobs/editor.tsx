/** The editor of a job's definition: what is wrong with it, what it changes, and its saving. */
import { useMemo, useRef, useState } from "preact/hooks";
import { ask, RequestError } from "../api/ask.ts";
import type { Job, Validation } from "../api/types.ts";
import { Editor, goToLine } from "../parts/editor.tsx";
import { FileField } from "../parts/file-field.tsx";
import { Form } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { useSettled } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Verdict } from "../parts/verdict.tsx";
import { go } from "../router.tsx";
import { type Resource, useResource } from "../state/resource.ts";
import { mayDoEverywhere } from "../state/rights.ts";
import { writtenYaml } from "./definition.ts";
import { DiffLines } from "./diff-lines.tsx";
import { OverrideDialog } from "./override.tsx";
import { added, SNIPPETS } from "./snippets.ts";
import { type ReadYaml, type Remark, readYaml } from "./yaml-body.ts";
import "../style/launch.css";

export interface JobSource {
  /** The version that is changed; null: a new job. */
  job: Job | null;
  /** Its definition, or where a new one begins. */
  text: string;
}

type Checked = ReadYaml & Pick<Validation, "verdict">;

export function JobEditor({ source }: { source: JobSource }) {
  // The version that is changed. A newer one takes its place only when the person says so.
  const [base, setBase] = useState(source);
  const [newer, setNewer] = useState<JobSource | null>(null);
  const [text, setText] = useState(source.text);
  const [refused, setRefused] = useState<RequestError | null>(null);
  // Ends the submission that the question of the override belongs to.
  const [answer, setAnswer] = useState<((sent: boolean) => void) | null>(null);
  const area = useRef<HTMLTextAreaElement>(null);
  const [checked, isCurrent] = useChecked(text);
  const found = checked.data.value;
  const remarks = useMemo(
    () => [...(found?.remarks ?? []), ...said(refused, found)],
    [found, refused],
  );
  const isBlocked = found?.verdict === "block" && isCurrent;
  const mayOverride = mayDoEverywhere("safety:override");
  const submit = () =>
    isBlocked && mayOverride
      ? new Promise<boolean>((resolve) => setAnswer(() => resolve))
      : save({});
  const save = async (override: { override_safety?: true; reason?: string }) => {
    const { body } = await readYaml(text);
    if (body === null) return false;
    try {
      const saved = await send(base.job, { ...body, ...override } as never);
      toast(
        base.job ? `${saved.name} is at version ${saved.version}` : `${saved.name} was created`,
      );
      go(`/jobs/${saved.id}`);
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setRefused(failed);
      if (failed.status === 412 && base.job) setNewer(await latest(base.job));
      throw failed;
    }
  };
  const { job } = base;
  const verb = job ? `Save as version ${job.version + 1}` : "Create the job";
  const close = () => go(job ? `/jobs/${job.id}` : "/jobs");
  return (
    <>
      <Form
        verb={isBlocked && mayOverride ? "Override the check …" : verb}
        disabled={found?.body === null || (isBlocked && !mayOverride)}
        onSubmit={submit}
        onCancel={close}
      >
        {() => (
          <div class="launch">
            <div class="form">
              <Editor
                label="Definition, as YAML"
                hint="Comments are not stored."
                text={text}
                onChange={(typed) => {
                  setText(typed);
                  setRefused(null);
                }}
                wrong={new Set(remarks.filter((one) => one.grave).map((one) => one.line ?? 0))}
                area={area}
              />
              {job === null && (
                <FileField
                  label="Or from a file"
                  hint="Its text takes the place of the one above; nothing is stored yet."
                  accept=".yaml,.yml,.json"
                  onText={(read) => {
                    setText(read);
                    setRefused(null);
                  }}
                />
              )}
            </div>
            <div class="stack">
              <Snippets text={text} area={area} />
              <Panel title={<>Check {found?.verdict && <Verdict verdict={found.verdict} />}</>}>
                <div aria-live="polite">
                  <Loaded resource={checked} what="the check">
                    {() => (
                      <Remarks remarks={remarks} onLine={(line) => goToLine(area.current!, line)} />
                    )}
                  </Loaded>
                  {isBlocked && (
                    <p class="tone bad">
                      The safety check blocks it. Change it
                      {mayOverride && ", or override the check with a reason"}.
                    </p>
                  )}
                </div>
              </Panel>
              {newer && (
                <Newer
                  base={base}
                  newer={newer}
                  onTake={() => {
                    setBase(newer);
                    setNewer(null);
                  }}
                />
              )}
              {job && (
                <DiffLines
                  title={`Changed since version ${job.version}`}
                  before={base.text}
                  after={text}
                />
              )}
            </div>
          </div>
        )}
      </Form>
      {answer && (
        <OverrideDialog
          verb={verb}
          remarks={remarks}
          onSave={(reason) => save({ override_safety: true, reason })}
          onClose={() => {
            answer(false);
            setAnswer(null);
          }}
        />
      )}
    </>
  );
}

/** Read and check a text when typing has paused; the flag says that it is still the same. */
function useChecked(text: string): [Resource<Checked>, boolean] {
  const settled = useSettled(text, text);
  const checked = useResource(
    async (signal): Promise<Checked> => {
      const read = await readYaml(settled);
      if (read.body === null) return { ...read, verdict: null };
      const answer = await ask("POST /jobs/validate", { body: read.body, signal });
      const told = [
        ...answer.errors.map((one) => ({ ...one, grave: true })),
        ...answer.warnings.map((one) => ({ ...one, grave: false })),
      ];
      return { ...read, verdict: answer.verdict, remarks: told.map((one) => remarkOf(one, read)) };
    },
    [settled],
  );
  return [checked, settled === text];
}

interface Told {
  pointer?: string | null;
  detail: string;
  grave: boolean;
}

function remarkOf(told: Told, read: ReadYaml): Remark {
  const line = told.pointer ? read.lineOf(told.pointer) : null;
  const where = told.pointer && line === null ? `${told.pointer}: ` : "";
  return { line, words: where + told.detail, grave: told.grave };
}

/** What the last attempt to save was refused for, at its places. */
function said(refused: RequestError | null, read: ReadYaml | null): readonly Remark[] {
  if (refused === null || read === null) return [];
  return refused.errors.map((one) => remarkOf({ ...one, grave: true }, read));
}

async function send(job: Job | null, body: never): Promise<Job> {
  if (job === null) return ask("POST /jobs", { body });
  return ask("PUT /jobs/{id}", { path: { id: String(job.id) }, body, match: `"${job.version}"` });
}

async function latest(job: Job): Promise<JobSource> {
  const now = await ask("GET /jobs/{id}", { path: { id: String(job.id) } });
  return { job: now, text: await writtenYaml(now) };
}

interface SnippetsProps {
  text: string;
  area: { current: HTMLTextAreaElement | null };
}

/** Adds what a job often has, so that nobody has to know its fields by heart. */
function Snippets({ text, area }: SnippetsProps) {
  const add = (snippet: (typeof SNIPPETS)[number]) => {
    const more = added(text, snippet);
    if (more === null) {
      toast(`${snippet.field} is written on one line: write its items below it.`, "bad");
      return;
    }
    if (more === text) {
      toast(`${snippet.field} sets this already.`);
      return;
    }
    area.current!.select();
    // The one way that leaves the change in the browser's history of undo.
    document.execCommand("insertText", false, more);
    goToLine(area.current!, lineOfChange(text, more));
  };
  return (
    <Panel title="Add">
      <p class="row">
        {SNIPPETS.map((snippet) => (
          <button
            key={snippet.name}
            type="button"
            class="button small"
            title={snippet.about}
            onClick={() => add(snippet)}
          >
            {snippet.name}
          </button>
        ))}
      </p>
    </Panel>
  );
}

/** The first line, from 1, that is another one. */
function lineOfChange(before: string, after: string): number {
  const lines = before.split("\n");
  return 1 + after.split("\n").findIndex((line, index) => line !== lines[index]);
}

interface RemarksProps {
  remarks: readonly Remark[];
  onLine: (line: number) => void;
}

function Remarks({ remarks, onLine }: RemarksProps) {
  if (remarks.length === 0) return <p class="tone ok">No problems found.</p>;
  return (
    <ul class="stack-tight" aria-label="Remarks">
      {remarks.map((one, index) => (
        <li key={index} class="row">
          {one.line !== null && (
            <button type="button" class="button small" onClick={() => onLine(one.line!)}>
              Line {one.line}
            </button>
          )}
          <span class={one.grave ? "tone bad" : "tone warn"}>
            <Text of={one.words} />
          </span>
        </li>
      ))}
    </ul>
  );
}

interface NewerProps {
  base: JobSource;
  newer: JobSource;
  onTake: () => void;
}

/** Somebody else has saved a version meanwhile. */
function Newer({ base, newer, onTake }: NewerProps) {
  const version = newer.job!.version;
  return (
    <>
      <p class="tone warn" role="alert">
        Somebody has saved version {version} meanwhile. Your text is still here: look what that
        version changed, put it into your text if you want to keep it, then save over version{" "}
        {version}.
      </p>
      <DiffLines title={`What version ${version} changed`} before={base.text} after={newer.text} />
      <p>
        <button type="button" class="button" onClick={onTake}>
          Go on from version {version}
        </button>
      </p>
    </>
  );
}
