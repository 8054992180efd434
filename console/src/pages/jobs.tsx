/** Jobs: what do they do, and how do they fare? */
import { ask } from "../api/ask.ts";
import type { ListedJob } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { currentFilter, Filter, NothingFits } from "../parts/filter.tsx";
import { RecentStrip } from "../parts/recent.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link, query, setQuery } from "../router.tsx";
import { type FilterWord, toQuery } from "../state/list-filter.ts";
import { useListing } from "../state/listing.ts";
import "../style/launch.css";

const REFRESH_SECONDS = 15;
const RECENT = 30;

const WORDS: readonly FilterWord[] = [
  {
    word: "status",
    parameter: "status",
    values: ["running", "failed", "completed", "cancelled", "scheduled", "new", "draft"],
  },
  { word: "state", parameter: "state", values: ["active", "paused", "draft"] },
  { word: "tag", parameter: "tags", hint: "such as env=prod" },
  { word: "by", parameter: "created_by", hint: "who made it" },
  {
    word: "type",
    parameter: "job_type",
    values: ["command", "script", "file_transfer", "composite"],
  },
];

type ListQuery = NonNullable<Parameters<typeof ask<"GET /jobs">>[1]>["query"];

export default function Jobs() {
  const filter = currentFilter();
  const sort = query.value.get("sort");
  const asked = toQuery(filter, WORDS);
  const list = useListing(
    (cursor, signal) =>
      ask("GET /jobs", {
        query: {
          ...asked.query,
          ...(asked.text && { q: asked.text }),
          sort: sort ?? "name",
          cursor,
          recent: RECENT,
          limit: 50,
        } as ListQuery,
        signal,
      }),
    [filter, sort],
    REFRESH_SECONDS,
  );
  return (
    <div class="stack">
      <h1>Jobs</h1>
      <Filter
        label="Filter of jobs"
        words={WORDS}
        text
        placeholder="name, status:failed tag:env=prod"
      />
      <Loaded resource={list} what="jobs">
        {({ items }) =>
          items.length ? (
            <Table
              label="Jobs"
              columns={COLUMNS}
              rows={items}
              keyOf={(job) => String(job.id)}
              onOpen={(job) => go(`/jobs/${job.id}`)}
              sort={sort ?? "name"}
              onSort={(by) => setQuery({ sort: by === "name" ? null : by })}
              onMore={list.more}
              width={860}
            />
          ) : filter ? (
            <NothingFits one="job" all="jobs" />
          ) : (
            <Empty why="There is no job yet that you may see. Write one as YAML, and apply it:">
              <pre>{SAMPLE}</pre>
              <code>opsjobs jobs apply -f disk.yaml</code>
            </Empty>
          )
        }
      </Loaded>
    </div>
  );
}

const SAMPLE = `name: disk
targets: {selector: "env=prod"}
actions:
  - command: df -h /`;

const COLUMNS: readonly Column<ListedJob>[] = [
  {
    name: "name",
    label: "Job",
    width: "minmax(160px, 2fr)",
    sort: "name",
    cell: (job) => (
      <Link to={`/jobs/${job.id}`}>
        <b>
          <Text of={job.name} />
        </b>
      </Link>
    ),
  },
  {
    name: "status",
    label: "State",
    width: "minmax(110px, 1fr)",
    cell: (job) => <Status state={job.state === "paused" ? "paused" : job.status} />,
  },
  {
    name: "recent",
    label: "Last 30, newest right",
    width: "minmax(190px, 2fr)",
    cell: (job) => <RecentStrip recent={job.recent ?? []} />,
  },
  {
    name: "tags",
    label: "Tags",
    width: "minmax(100px, 2fr)",
    cell: (job) => <Text of={job.tags.join(", ")} />,
  },
  {
    name: "changed",
    label: "Changed",
    width: "minmax(90px, 1fr)",
    sort: "updated_at",
    end: true,
    cell: (job) => <Time at={job.updated_at} ago />,
  },
  {
    name: "launch",
    label: "Now",
    width: "96px",
    cell: (job) =>
      job.state === "active" ? (
        <Link to={`/jobs/${job.id}/launch`} class="button small">
          Launch
        </Link>
      ) : null,
  },
];
