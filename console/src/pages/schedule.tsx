/** One schedule: why did it not run, and when is it due next? */
import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Firing, Schedule as ScheduleAnswer, ScheduleDraft } from "../api/types.ts";
import { labelsOf } from "../jobs/labels.ts";
import { commandLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { Confirm, Dialog } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Field, Form } from "../parts/form.tsx";
import { zoneOf } from "../parts/moment.ts";
import { Panel } from "../parts/panel.tsx";
import { useSettled } from "../parts/picker.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { wordsOf } from "../parts/tone.ts";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useListing } from "../state/listing.ts";
import { type Resource, useResource } from "../state/resource.ts";
import { askIf, mayDo, mayDoEverywhere } from "../state/rights.ts";
import { taste } from "../state/taste.ts";
import "../style/launch.css";

const REFRESH_SECONDS = 15;
const COMING = 10;

export default function Schedule({ id }: { id: string }) {
  const schedule = useResource(
    (signal) => ask("GET /schedules/{id}", { path: { id }, signal }),
    [id],
    REFRESH_SECONDS,
  );
  return (
    <Loaded resource={schedule} what="the schedule" heading={`Schedule ${id}`}>
      {(found) => <Shown schedule={found} resource={schedule} />}
    </Loaded>
  );
}

type Asking = "pause" | "trigger" | "edit" | null;
interface ShownProps {
  schedule: ScheduleAnswer;
  resource: Resource<ScheduleAnswer>;
}

function Shown({ schedule, resource }: ShownProps) {
  const [asking, setAsking] = useState<Asking>(null);
  useEffect(() => {
    document.title = `${schedule.name} · opsjobs`;
  }, [schedule.name]);
  const labels = useJobLabels(schedule.job_id);
  const manages = mayDo("schedules:manage", labels);
  return (
    <div class="stack">
      <div class="head">
        <h1>
          <Text of={schedule.name} />
        </h1>
        {!schedule.enabled && <Status state="paused" />}
        <span class="dim">
          of{" "}
          {mayDo("jobs:read") ? (
            <Link to={`/jobs/${schedule.job_id}`}>
              <Text of={schedule.job_name ?? String(schedule.job_id)} />
            </Link>
          ) : (
            <Text of={schedule.job_name ?? String(schedule.job_id)} />
          )}
        </span>
        <div class="actions">
          {manages && mayDo("jobs:execute", labels) && (
            <button type="button" class="button" onClick={() => setAsking("trigger")}>
              Run now …
            </button>
          )}
          {manages && (
            <>
              <button type="button" class="button" onClick={() => setAsking("edit")}>
                Edit …
              </button>
              <button type="button" class="button" onClick={() => setAsking("pause")}>
                {schedule.enabled ? "Pause …" : "Resume …"}
              </button>
            </>
          )}
          <CopyMenu
            of={{
              command: commandLine("opsjobs", "schedules", "firings", String(schedule.id)),
              json: schedule,
            }}
          />
        </div>
      </div>
      <p>
        <Text of={schedule.words} /> · if the previous execution is still running:{" "}
        {wordsOf(schedule.overlap)} · if a due time was missed: {wordsOf(schedule.misfire)}, up to{" "}
        {schedule.misfire_window} late
      </p>
      {schedule.paused_reason && (
        <p class="tone hold">
          <Text of={schedule.paused_reason} />
        </p>
      )}
      <Coming schedule={schedule} />
      <Past id={String(schedule.id)} />
      {asking && (
        <Ask
          asking={asking}
          schedule={schedule}
          onClose={() => {
            setAsking(null);
            void resource.reload();
          }}
        />
      )}
    </div>
  );
}

function Coming({ schedule }: { schedule: ScheduleAnswer }) {
  const preview = useResource(
    (signal) =>
      ask("POST /schedules/preview", { body: { id: schedule.id, count: COMING }, signal }),
    [schedule.id, schedule.version, schedule.enabled],
    4 * REFRESH_SECONDS,
  );
  return (
    <Panel title="Next" flush>
      <Loaded resource={preview} what="due times">
        {(found) => <Moments found={found} zone={schedule.timezone} />}
      </Loaded>
    </Panel>
  );
}

type PreviewAnswer = Awaited<ReturnType<typeof ask<"POST /schedules/preview">>>;

/** The labels of its job, which a scope is compared with; null if that need not be known. */
function useJobLabels(id: number): Record<string, string> | null {
  const scoped = !mayDoEverywhere("schedules:manage") && mayDo("schedules:manage");
  const job = useResource(
    (signal) =>
      askIf(scoped && mayDo("jobs:read"), () =>
        ask("GET /jobs/{id}", { path: { id: String(id) }, signal }),
      ),
    [id],
  );
  return job.data.value && labelsOf(job.data.value);
}

/** Due times, also on the clock of the schedule's zone if that is another one than is shown. */
function Moments({ found, zone }: { found: PreviewAnswer; zone: string | null }) {
  return (
    <ul class="entries">
      {found.moments.map((moment) => (
        <li key={moment.utc}>
          <Time at={moment.utc} />
          {zone !== null && zone !== zoneOf(taste.value.clock) && (
            <span class="dim">
              {moment.local.slice(0, 16).replace("T", " ")} in {zone}
            </span>
          )}
          {moment.closed && (
            <span class="tone hold">
              <Text of={`closed by ${moment.closed.calendar}: ${moment.closed.reason}`} />
            </span>
          )}
        </li>
      ))}
      {found.notes.map((note) => (
        <li key={note} class="dim">
          <Text of={note} />
        </li>
      ))}
    </ul>
  );
}

function Past({ id }: { id: string }) {
  const list = useListing(
    (cursor, signal) =>
      ask("GET /schedules/{id}/firings", { path: { id }, query: { cursor, limit: 50 }, signal }),
    [id],
    REFRESH_SECONDS,
  );
  return (
    <Panel title="Past" flush>
      <Loaded resource={list} what="past due times">
        {({ items, next }) =>
          items.length ? (
            <ul class="entries">
              {items.map((firing) => (
                <PastMoment key={firing.id} firing={firing} />
              ))}
              {next && (
                <li>
                  <button type="button" class="button small" onClick={() => void list.more()}>
                    Earlier due times
                  </button>
                </li>
              )}
            </ul>
          ) : (
            <Empty why="It has not been due yet." />
          )
        }
      </Loaded>
    </Panel>
  );
}

function PastMoment({ firing }: { firing: Firing }) {
  return (
    <li>
      <Time at={firing.due_at} />
      <Status state={firing.execution_status ?? firing.status} />
      <Text of={firing.explained} />
      {firing.execution_id !== null && (
        <Link to={`/executions/${firing.execution_id}`}>execution {firing.execution_id}</Link>
      )}
      {firing.rule && <code class="dim">{firing.rule}</code>}
    </li>
  );
}

interface AskProps {
  asking: NonNullable<Asking>;
  schedule: ScheduleAnswer;
  onClose: () => void;
}

function Ask({ asking, schedule, onClose }: AskProps) {
  const path = { id: String(schedule.id) };
  if (asking === "edit") return <Editor schedule={schedule} onClose={onClose} />;
  if (asking === "trigger")
    return (
      <Confirm
        title={`Run ${schedule.name} now?`}
        verb="Run now"
        reason="optional"
        onClose={onClose}
        onConfirm={async (reason) => {
          const body = reason ? { reason } : {};
          const launched = await ask("POST /schedules/{id}/trigger", { path, body });
          go(`/executions/${launched.id}`);
        }}
      >
        <p>Launches its job at once with the schedule's parameters. Its due times stay the same.</p>
      </Confirm>
    );
  const pauses = schedule.enabled;
  return (
    <Confirm
      title={pauses ? `Pause ${schedule.name}?` : `Resume ${schedule.name}?`}
      verb={pauses ? "Pause" : "Resume"}
      {...(pauses && { reason: "optional" as const })}
      onClose={onClose}
      onConfirm={async (reason) => {
        if (pauses)
          await ask("POST /schedules/{id}/pause", { path, body: { reason: reason || null } });
        else await ask("POST /schedules/{id}/resume", { path });
      }}
    >
      <p>
        {pauses
          ? "Due times are skipped, with this reason, until the schedule is resumed."
          : "It continues with its next due time. Skipped due times are not run."}
      </p>
    </Confirm>
  );
}

/** Change when it runs, with the coming due times while typing. */
function Editor({ schedule, onClose }: { schedule: ScheduleAnswer; onClose: () => void }) {
  const field = schedule.type === "cron" ? "cron" : schedule.type === "recurring" ? "time" : null;
  const [when, setWhen] = useState(field ? (schedule[field] ?? "") : "");
  const [zone, setZone] = useState(schedule.timezone ?? "UTC");
  const change = { ...(field && { [field]: when.trim() }), timezone: zone.trim() };
  const key = JSON.stringify(change);
  const settled = useSettled(key, key);
  const preview = useResource(
    (signal) =>
      ask("POST /schedules/preview", {
        body: { id: schedule.id, schedule: draftOf(schedule, JSON.parse(settled)), count: 5 },
        signal,
      }),
    [settled],
  );
  const save = async () => {
    await ask("PATCH /schedules/{id}", {
      path: { id: String(schedule.id) },
      body: change,
      match: `"${schedule.version}"`,
    });
    onClose();
  };
  return (
    <Dialog title={`When ${schedule.name} runs`} onClose={onClose}>
      <Form verb="Save" onSubmit={save} onCancel={onClose}>
        {() => (
          <>
            {field === null ? (
              <p>
                A schedule of type {schedule.type} is changed on the command line:{" "}
                <code>opsjobs schedules change</code>
              </p>
            ) : (
              <Field label={field === "cron" ? "Cron expression" : "Time"}>
                <input
                  class="input mono"
                  value={when}
                  spellcheck={false}
                  onInput={(event) => setWhen(event.currentTarget.value)}
                />
              </Field>
            )}
            <Field label="Time zone" hint="Such as Europe/Berlin">
              <input
                class="input"
                value={zone}
                spellcheck={false}
                onInput={(event) => setZone(event.currentTarget.value)}
              />
            </Field>
            <Loaded resource={preview} what="due times">
              {(found) => (
                <>
                  <p>
                    <b>
                      <Text of={found.words} />
                    </b>
                  </p>
                  <Moments found={found} zone={zone} />
                </>
              )}
            </Loaded>
          </>
        )}
      </Form>
    </Dialog>
  );
}

/** The fields of a schedule that its body has. */
const FIELDS = [
  ...["name", "type", "at", "local_time", "cron", "every", "interval", "time", "weekdays", "day"],
  ...["anchor", "timezone", "dst_gap", "dst_fold", "misfire", "misfire_window", "overlap"],
  ...["jitter", "start_at", "end_at", "max_firings", "enabled", "calendars", "parameters"],
] as const;

function draftOf(schedule: ScheduleAnswer, change: object): ScheduleDraft {
  const shown = schedule as unknown as Record<string, unknown>;
  const draft = Object.fromEntries(FIELDS.map((name) => [name, shown[name]]));
  return { ...draft, ...change } as unknown as ScheduleDraft;
}
