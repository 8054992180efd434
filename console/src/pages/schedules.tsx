/** Schedules: what runs by itself, when next, and how did it go last? */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Schedule } from "../api/types.ts";
import { Command, Empty } from "../parts/empty.tsx";
import { ListPage } from "../parts/list-page.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import type { Column } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Link } from "../router.tsx";
import { NewSchedule } from "../schedules/new.tsx";
import { useFilteredList } from "../state/filtered-list.ts";
import type { FilterWord } from "../state/list-filter.ts";
import { useResource } from "../state/resource.ts";
import { inSight, mayDo } from "../state/rights.ts";
import "../style/launch.css";

const REFRESH_SECONDS = 15;
const MISSED_SHOWN = 5;

const WORDS: readonly FilterWord[] = [
  { word: "job", parameter: "job_name" },
  { word: "enabled", parameter: "enabled", values: ["true", "false"] },
  { word: "type", parameter: "type", values: ["cron", "recurring", "once"] },
  { word: "calendar", parameter: "calendars" },
  { word: "owner", parameter: "owner" },
];

export default function Schedules() {
  const schedules = useFilteredList("GET /schedules", {
    words: WORDS,
    sort: "next_due_at",
    limit: 100,
    everySeconds: REFRESH_SECONDS,
  });
  const [adding, setAdding] = useState(false);
  const manages = mayDo("schedules:manage");
  return (
    <>
      <ListPage
        title="Schedules"
        rows="schedules"
        of={schedules}
        text
        placeholder="Part of a name or job, or enabled:false type:cron"
        actions={
          <>
            {manages && (
              <button type="button" class="button" onClick={() => setAdding(true)}>
                New schedule …
              </button>
            )}
            <Link class="button" to="/tonight">
              What runs tonight
            </Link>
          </>
        }
        intro={<Missed />}
        columns={COLUMNS}
        keyOf={(schedule) => String(schedule.id)}
        pathOf={(schedule) => `/schedules/${schedule.id}`}
        width={980}
        empty={
          <Empty
            why={`There are no schedules yet${inSight("schedules:read")}. A schedule launches its job when it is due.`}
          >
            {manages && (
              <>
                <button type="button" class="button primary" onClick={() => setAdding(true)}>
                  New schedule …
                </button>
                <Command text="opsjobs schedules add JOB --every daily --time 02:30" />
              </>
            )}
          </Empty>
        }
      />
      {adding && <NewSchedule onClose={() => setAdding(false)} />}
    </>
  );
}

/** Due times that were missed or failed: what a person has to know about. */
function Missed() {
  const missed = useResource(
    (signal) =>
      ask("GET /firings", { query: { status: ["missed", "failed"], limit: MISSED_SHOWN }, signal }),
    [],
    REFRESH_SECONDS,
  );
  const items = missed.data.value?.items ?? [];
  if (items.length === 0) return null;
  return (
    <Panel title="Recently missed or failed" flush>
      <ul class="entries">
        {items.map((firing) => (
          <li key={firing.id}>
            <Time at={firing.due_at} due />
            <Status state={firing.status} />
            <Link to={`/schedules/${firing.schedule.id}`}>
              <Text of={`${firing.schedule.name} of ${firing.schedule.job_name}`} />
            </Link>
            <span class="dim cut">
              <Text of={firing.explained} />
            </span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

const COLUMNS: readonly Column<Schedule>[] = [
  {
    name: "name",
    label: "Schedule",
    width: "minmax(184px, 2fr)",
    sort: "name",
    cell: (schedule) => (
      <Link to={`/schedules/${schedule.id}`}>
        <b>
          <Text of={schedule.name} />
        </b>
      </Link>
    ),
  },
  {
    name: "job",
    label: "Job",
    width: "minmax(120px, 1fr)",
    sort: "job_name",
    cell: (schedule) => (
      <Link to={`/jobs/${schedule.job_id}`}>
        <Text of={schedule.job_name ?? String(schedule.job_id)} />
      </Link>
    ),
  },
  {
    name: "words",
    label: "When",
    width: "minmax(180px, 2fr)",
    cell: (schedule) => <Text of={schedule.words} />,
  },
  {
    name: "next",
    label: "Next",
    width: "minmax(176px, 1fr)",
    sort: "next_due_at",
    cell: (schedule) =>
      schedule.enabled ? <Time at={schedule.next_due_at} due /> : <Status state="paused" />,
  },
  {
    name: "last",
    label: "Last",
    width: "minmax(200px, 2fr)",
    cell: (schedule) =>
      schedule.last_firing ? (
        <span class="row">
          <Status state={schedule.last_firing.execution_status ?? schedule.last_firing.status} />
          <Time at={schedule.last_firing.due_at} ago />
        </span>
      ) : (
        <span class="dim">not due yet</span>
      ),
  },
];
