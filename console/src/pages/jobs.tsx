/** Jobs: what do they do, and how do they fare? */
import type { ListedJob } from "../api/types.ts";
import { labelsOf } from "../jobs/labels.ts";
import { Command, Empty } from "../parts/empty.tsx";
import { ListPage } from "../parts/list-page.tsx";
import { RecentStrip } from "../parts/recent.tsx";
import { Status } from "../parts/status.tsx";
import type { Column } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Link } from "../router.tsx";
import { useFilteredList } from "../state/filtered-list.ts";
import type { FilterWord } from "../state/list-filter.ts";
import { inSight, mayDo } from "../state/rights.ts";
import "../style/launch.css";

const REFRESH_SECONDS = 15;
const RECENT = 30;

const WORDS: readonly FilterWord[] = [
  {
    word: "status",
    parameter: "status",
    values: [
      ...["running", "failed", "partial", "timeout", "completed", "cancelled"],
      ...["scheduled", "new", "draft"],
    ],
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

export default function Jobs() {
  const jobs = useFilteredList("GET /jobs", {
    words: WORDS,
    sort: "name",
    more: { recent: RECENT },
    everySeconds: REFRESH_SECONDS,
  });
  return (
    <ListPage
      title="Jobs"
      rows="jobs"
      of={jobs}
      text
      placeholder="Part of a name, or status:failed tag:env=prod"
      actions={
        mayDo("jobs:create") && (
          <Link class="button" to="/jobs/new">
            New job …
          </Link>
        )
      }
      columns={mayDo("jobs:execute") ? [...COLUMNS, LAUNCH] : COLUMNS}
      keyOf={(job) => String(job.id)}
      pathOf={(job) => `/jobs/${job.id}`}
      width={900}
      empty={
        <Empty
          why={`There are no jobs yet${inSight("jobs:read")}. A job is what is run again: commands, scripts, files, in order, on some targets.`}
        >
          {mayDo("jobs:create") && (
            <>
              <Link class="button primary" to="/jobs/new">
                New job …
              </Link>
              <Command text="opsjobs jobs apply -f job.yaml" />
            </>
          )}
        </Empty>
      }
    />
  );
}

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
    width: "minmax(124px, 1fr)",
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
];

const LAUNCH: Column<ListedJob> = {
  name: "launch",
  label: "Actions",
  bare: true,
  width: "124px",
  cell: (job) =>
    job.state === "active" && mayDo("jobs:execute", labelsOf(job)) ? (
      <Link to={`/jobs/${job.id}/launch`} class="button small" aria-label={`Launch ${job.name}`}>
        Launch …
      </Link>
    ) : null,
};
