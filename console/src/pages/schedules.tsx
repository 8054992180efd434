/** Schedules: what runs by itself, when next, and how did it go last? */
import { ask } from "../api/ask.ts";
import type { Schedule } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { currentFilter, Filter } from "../parts/filter.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link, query, setQuery } from "../router.tsx";
import { type FilterWord, toQuery } from "../state/list-filter.ts";
import { useListing } from "../state/listing.ts";
import { useResource } from "../state/resource.ts";
import "../style/launch.css";

const REFRESH_SECONDS = 15;
const MISSED_SHOWN = 5;

const WORDS: readonly FilterWord[] = [
  { word: "job", parameter: "job_name" },
  { word: "enabled", parameter: "enabled", values: ["true", "false"] },
  { word: "type", parameter: "type", values: ["cron", "recurring", "interval", "once"] },
  { word: "calendar", parameter: "calendars" },
  { word: "owner", parameter: "owner" },
];

type ListQuery = NonNullable<Parameters<typeof ask<"GET /schedules">>[1]>["query"];

export default function Schedules() {
  const filter = currentFilter();
  const sort = query.value.get("sort");
  const asked = toQuery(filter, WORDS);
  const list = useListing(
    (cursor, signal) =>
      ask("GET /schedules", {
        query: {
          ...asked.query,
          ...(asked.text && { q: asked.text }),
          sort: sort ?? "next_due_at",
          cursor,
          limit: 100,
        } as ListQuery,
        signal,
      }),
    [filter, sort],
    REFRESH_SECONDS,
  );
  return (
    <div class="stack">
      <div class="head">
        <h1>Schedules</h1>
        <Link to="/tonight">What runs tonight</Link>
      </div>
      <Missed />
      <Filter
        label="Filter of schedules"
        words={WORDS}
        text
        placeholder="name or job, enabled:false"
      />
      <Loaded resource={list} what="schedules">
        {({ items }) =>
          items.length ? (
            <Table
              label="Schedules"
              columns={COLUMNS}
              rows={items}
              keyOf={(schedule) => String(schedule.id)}
              onOpen={(schedule) => go(`/schedules/${schedule.id}`)}
              sort={sort ?? "next_due_at"}
              onSort={(by) => setQuery({ sort: by === "next_due_at" ? null : by })}
              onMore={list.more}
              width={900}
            />
          ) : filter ? (
            <Empty why="No schedule fits this filter." />
          ) : (
            <Empty why="Nothing runs by itself yet that you may see. To run a job every night:">
              <code>opsjobs schedules add JOB --daily 02:30</code>
            </Empty>
          )
        }
      </Loaded>
    </div>
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
    <Panel title="Missed and failed lately" flush>
      <ul class="entries">
        {items.map((firing) => (
          <li key={firing.id}>
            <Status state={firing.status} />
            <Link to={`/schedules/${firing.schedule.id}`}>
              <Text of={`${firing.schedule.name} of ${firing.schedule.job_name}`} />
            </Link>
            <Time at={firing.due_at} />
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
    width: "minmax(140px, 1fr)",
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
    width: "minmax(130px, 1fr)",
    sort: "next_due_at",
    cell: (schedule) =>
      schedule.enabled ? <Time at={schedule.next_due_at} /> : <Status state="paused" />,
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
        <span class="dim">never due yet</span>
      ),
  },
];
