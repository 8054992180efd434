/** Executions: what failed lately? */
import { ask } from "../api/ask.ts";
import type { Execution, HourCount } from "../api/types.ts";
import { Name } from "../execution/name-shown.tsx";
import { Took } from "../execution/took.tsx";
import { type Bar, Bars } from "../parts/bars.tsx";
import { Empty, None } from "../parts/empty.tsx";
import { ListPage } from "../parts/list-page.tsx";
import { Icon } from "../parts/icon.tsx";
import { timeWords } from "../parts/moment.ts";
import { Panel } from "../parts/panel.tsx";
import { Status, TallyBar } from "../parts/status.tsx";
import type { Column } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { type Tone, toneOf, wordsOf, worstFirst } from "../parts/tone.ts";
import { Loaded } from "../parts/trouble.tsx";
import { Link, setQuery } from "../router.tsx";
import { formatTerm } from "../state/filter.ts";
import { useFilteredList } from "../state/filtered-list.ts";
import type { FilterWord } from "../state/list-filter.ts";
import { useResource } from "../state/resource.ts";
import { inSight, mayLaunch } from "../state/rights.ts";
import { taste } from "../state/taste.ts";
import "../style/executions.css";

const REFRESH_SECONDS = 15;
const HOURS = 24;
const HOUR_MS = 3_600_000;
const BARS_HEIGHT = 64;
/** Bars are buttons of at least 24 pixels: on a phone each is two hours. */
const NARROW = 700;

const WORDS: readonly FilterWord[] = [
  {
    word: "status",
    parameter: "status",
    values: [
      ...["running", "queued", "paused", "cancelling", "pending_approval"],
      ...["completed", "partial", "failed", "timeout", "cancelled", "rejected"],
    ],
  },
  { word: "job", parameter: "job_name", hint: "its name" },
  { word: "by", parameter: "requested_by", hint: "who launched it" },
  {
    word: "trigger",
    parameter: "triggered_by",
    values: ["manual", "api", "schedule", "webhook", "retry", "workflow"],
  },
  { word: "target", parameter: "target", hint: "on which it ran: a name or an id", single: true },
  { word: "label", parameter: "label", hint: "such as label:env=prod" },
  { word: "parent", parameter: "parent", kind: "number", hint: "the execution that it retries" },
  { word: "job-id", parameter: "job_id", kind: "number" },
  { word: "id", parameter: "id", kind: "number" },
  {
    word: "after",
    parameter: "finished_after",
    kind: "time",
    hint: "ended at this time or later",
  },
  { word: "before", parameter: "finished_before", kind: "time", hint: "ended before" },
];

export default function Executions() {
  const executions = useFilteredList("GET /executions", {
    words: WORDS,
    sort: "-id",
    everySeconds: REFRESH_SECONDS,
  });
  return (
    <ListPage
      title="Executions"
      rows="executions"
      of={executions}
      text
      placeholder="Part of a name or a command, or status:failed by:ada target:web-1"
      intro={<Hours />}
      columns={COLUMNS}
      keyOf={(execution) => String(execution.id)}
      pathOf={(execution) => `/executions/${execution.id}`}
      width={980}
      empty={
        <Empty why={`Nothing has been launched yet${inSight("executions:read")}.`}>
          {mayLaunch() && (
            <Link class="button primary" to="/launch">
              Launch …
            </Link>
          )}
        </Empty>
      }
    />
  );
}

const COLUMNS: readonly Column<Execution>[] = [
  {
    name: "name",
    label: "Execution",
    width: "minmax(160px, 3fr)",
    sort: "id",
    cell: (execution) => (
      <Link to={`/executions/${execution.id}`}>
        <b>
          <Name of={execution} id={execution.id} />
        </b>
      </Link>
    ),
  },
  {
    name: "status",
    label: "State",
    width: "minmax(180px, 1fr)",
    cell: (execution) => <Status state={execution.status} />,
  },
  {
    name: "targets",
    label: "Targets",
    width: "minmax(196px, 3fr)",
    cell: (execution) => <Targets execution={execution} />,
  },
  {
    name: "who",
    label: "By",
    width: "minmax(90px, 1fr)",
    cell: (execution) => (
      <span title={execution.triggered_by}>
        <Text of={execution.requested_by} />
        {execution.triggered_by === "schedule" && <span class="dim"> · schedule</span>}
      </span>
    ),
  },
  {
    name: "why",
    label: "Why",
    width: "minmax(100px, 2fr)",
    cell: (execution) => <Reason execution={execution} />,
  },
  {
    name: "launched",
    label: "Launched",
    width: "minmax(112px, 1fr)",
    end: true,
    cell: (execution) => <Time at={execution.created_at} ago />,
  },
  {
    name: "took",
    label: "Took",
    width: "112px",
    end: true,
    cell: (execution) => <Took of={execution} />,
  },
];

/** The tones of runs that did not succeed and that nobody stopped. */
const WRONG: ReadonlySet<Tone> = new Set(["bad", "lost", "warn", "hold"]);

function Targets({ execution }: { execution: Execution }) {
  const { counts, total_targets } = execution;
  const states = worstFirst(counts).filter(([state]) => WRONG.has(toneOf(state)));
  const wrong = states.reduce((sum, [, count]) => sum + count, 0);
  const tone = toneOf(states[0]?.[0] ?? "succeeded");
  return (
    <span class="targets-of">
      <TallyBar counts={counts} total={total_targets} />
      <span class="small">
        {wrong > 0 && (
          <>
            <span class={`tone ${tone}`}>
              <Icon name={tone} /> {wrong.toLocaleString("en")}
            </span>{" "}
            of{" "}
          </>
        )}
        {total_targets.toLocaleString("en")}
      </span>
    </span>
  );
}

function Reason({ execution }: { execution: Execution }) {
  const { waiting_on, error, reason } = execution;
  if (waiting_on) {
    return (
      <span class="tone hold" title={waiting_on.reason ?? ""}>
        <Text of={waiting_on.reason ?? wordsOf(waiting_on.kind)} />
      </span>
    );
  }
  const words = error ?? reason;
  return words ? (
    <span title={words}>
      <Text of={words} />
    </span>
  ) : (
    <None />
  );
}

/** What ended in each hour of the last day; a bar filters by its hour. */
function Hours() {
  const stats = useResource((signal) => ask("GET /stats", { signal }), [], 4 * REFRESH_SECONDS);
  return (
    <Panel title="Ended in the last day, by the hour">
      <Loaded resource={stats} what="figures">
        {({ at, hours }) => <HourBars at={at} hours={hours} />}
      </Loaded>
    </Panel>
  );
}

function HourBars({ at, hours }: { at: string; hours: readonly HourCount[] }) {
  const byHour = new Map(hours.map((one) => [Date.parse(one.hour), one.by_status]));
  const newest = Math.floor(Date.parse(at) / HOUR_MS) * HOUR_MS;
  const hoursEach = innerWidth < NARROW ? 2 : 1;
  const stepMs = hoursEach * HOUR_MS;
  const bars = Array.from({ length: HOURS / hoursEach }, (_, n): Bar => {
    const from = newest + HOUR_MS - HOURS * HOUR_MS + n * stepMs;
    const counts: Record<string, number> = {};
    for (let hour = from; hour < from + stepMs; hour += HOUR_MS) {
      for (const [state, count] of Object.entries(byHour.get(hour) ?? {})) {
        counts[state] = (counts[state] ?? 0) + count;
      }
    }
    const worst = worstFirst(counts);
    const words = worst.map(([state, count]) => `${count} ${wordsOf(state)}`).join(", ");
    return {
      label: `${clockOf(from)} to ${clockOf(from + stepMs)}: ${words || "none"}`,
      parts: Object.fromEntries(worst.toReversed()),
      onChoose: () => setQuery({ q: filterOfSpan(from, stepMs) }, { replace: false }),
    };
  });
  return (
    <>
      <div class="wide-bars">
        <Bars label="Ended executions by the hour" bars={bars} height={BARS_HEIGHT} past />
      </div>
      <p class="row small dim ends">
        <span>{clockOf(newest - (HOURS - 1) * HOUR_MS)}</span>
        <span>now</span>
      </p>
    </>
  );
}

const clockOf = (ms: number): string =>
  timeWords(new Date(ms), taste.value.clock, { seconds: false });

function filterOfSpan(from: number, ms: number): string {
  const term = (key: string, at: number) =>
    formatTerm({ key, values: [`${new Date(at).toISOString().slice(0, 19)}Z`], not: false });
  return `${term("after", from)} ${term("before", from + ms)}`;
}
