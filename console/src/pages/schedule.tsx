/** One schedule: why did it not run, and when is it due next? */
import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Firing, ScheduleDetail } from "../api/types.ts";
import { RulesPanel } from "../notifications/rules.tsx";
import { Act } from "../parts/act.tsx";
import { commandLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { wordsOf } from "../parts/tone.ts";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { DueTimes } from "../schedules/due-times.tsx";
import { ScheduleForm } from "../schedules/form.tsx";
import { useListing } from "../state/listing.ts";
import { type Resource, useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
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

type Asking = "pause" | "trigger" | "edit" | "delete" | null;
interface ShownProps {
  schedule: ScheduleDetail;
  resource: Resource<ScheduleDetail>;
}

function Shown({ schedule, resource }: ShownProps) {
  const [asking, setAsking] = useState<Asking>(null);
  useEffect(() => {
    document.title = `${schedule.name} · opsjobs`;
  }, [schedule.name]);
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
          <Act of={schedule} action="trigger" onAct={() => setAsking("trigger")}>
            Run now …
          </Act>
          <Act of={schedule} action="update" onAct={() => setAsking("edit")}>
            Edit …
          </Act>
          <Act
            of={schedule}
            action={schedule.enabled ? "pause" : "resume"}
            onAct={() => setAsking("pause")}
          >
            {schedule.enabled ? "Pause …" : "Resume …"}
          </Act>
          <Act of={schedule} action="delete" kind="danger" onAct={() => setAsking("delete")}>
            Delete …
          </Act>
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
      <div class="due-times">
        <Coming schedule={schedule} />
        <Past id={String(schedule.id)} />
      </div>
      <Told schedule={schedule} onChange={resource.reload} />
      {asking && (
        <Ask
          asking={asking}
          schedule={schedule}
          onClose={() => setAsking(null)}
          onChange={resource.reload}
        />
      )}
    </div>
  );
}

function Coming({ schedule }: { schedule: ScheduleDetail }) {
  const preview = useResource(
    (signal) =>
      ask("POST /schedules/preview", { body: { id: schedule.id, count: COMING }, signal }),
    [schedule.id, schedule.version, schedule.enabled],
    4 * REFRESH_SECONDS,
  );
  return (
    <Panel title={schedule.enabled ? "Next" : "Next: skipped while it is paused"} flush>
      <Loaded resource={preview} what="due times">
        {(found) => <DueTimes found={found} zone={schedule.timezone} />}
      </Loaded>
    </Panel>
  );
}

function Told({ schedule, onChange }: Pick<AskProps, "schedule" | "onChange">) {
  return (
    <RulesPanel
      title="Who is told"
      rules={schedule.notify}
      otherwise="the job"
      pointer="/notify"
      may={schedule.can.includes("update")}
      save={async (notify) => {
        await ask("PATCH /schedules/{id}", {
          path: { id: String(schedule.id) },
          body: { notify } as never,
          match: `"${schedule.version}"`,
        });
        await onChange();
      }}
    />
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
                    Older ones
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
      <Time at={firing.due_at} due />
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
  schedule: ScheduleDetail;
  onChange: () => Promise<void>;
  onClose: () => void;
}

function Ask({ asking, schedule, onChange, onClose }: AskProps) {
  const path = { id: String(schedule.id) };
  if (asking === "edit") return <Edit {...{ schedule, onChange, onClose }} />;
  if (asking === "delete")
    return (
      <Confirm
        title={`Delete ${schedule.name}?`}
        verb="Delete"
        danger
        onClose={onClose}
        onConfirm={async () => {
          await ask("DELETE /schedules/{id}", { path });
          toast(`${schedule.name} was deleted`);
          go(`/jobs/${schedule.job_id}?tab=schedules`);
        }}
      >
        <p>It is not due any more. What it has launched stays and goes on.</p>
      </Confirm>
    );
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
        <p>Its job runs at once, with the schedule's parameters. Its due times stay as they are.</p>
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
        await onChange();
      }}
    >
      <p>
        {pauses
          ? "Due times are skipped, with this reason, until it is resumed."
          : "It goes on with its next due time. What was skipped stays skipped."}
      </p>
    </Confirm>
  );
}

/** The form needs the job's parameters. */
function Edit({ schedule, onChange, onClose }: Omit<AskProps, "asking">) {
  const job = useResource(
    (signal) => ask("GET /jobs/{id}", { path: { id: String(schedule.job_id) }, signal }),
    [schedule.job_id],
  );
  return (
    <Loaded resource={job} what="the job">
      {(found) => (
        <ScheduleForm
          job={found}
          schedule={schedule}
          onDone={() => {
            void onChange();
            onClose();
          }}
          onClose={onClose}
        />
      )}
    </Loaded>
  );
}
