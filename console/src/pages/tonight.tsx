/** Tonight: what runs by itself until tomorrow morning, and in the coming week? */
import { ask } from "../api/ask.ts";
import type { Hour, UpcomingMoment } from "../api/types.ts";
import { type Bar, Bars } from "../parts/bars.tsx";
import { Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";
import { listed, nightEnd, sameMinute } from "../schedules/night.ts";
import { useResource } from "../state/resource.ts";
import "../style/launch.css";

const REFRESH_SECONDS = 60;
const BARS_HEIGHT = 64;
const LISTED = 500;

export default function Tonight() {
  const until = nightEnd(new Date());
  const moments = useResource(
    (signal) =>
      ask("GET /schedules/moments", {
        query: { to: nightEnd(new Date()).toISOString(), limit: LISTED },
        signal,
      }),
    [],
    REFRESH_SECONDS,
  );
  return (
    <div class="stack">
      <h1>Tonight</h1>
      <Panel title={`Until ${until.toLocaleString("en-GB", CLOCK)}`} flush>
        <Loaded resource={moments} what="due times">
          {(found) =>
            found.moments.length ? (
              <>
                <Crowd moments={found.moments} />
                <Entries moments={found.moments} />
                {found.complete_until !== found.to && (
                  <p class="dim">
                    There is more after <Time at={found.complete_until} />.
                  </p>
                )}
              </>
            ) : (
              <NothingTonight />
            )
          }
        </Loaded>
      </Panel>
      <Week />
    </div>
  );
}

const CLOCK = { weekday: "short", hour: "2-digit", minute: "2-digit" } as const;

function Entries({ moments }: { moments: readonly UpcomingMoment[] }) {
  const { single, often } = listed(moments);
  return (
    <ul class="entries">
      {often.map(({ first, count }) => (
        <Moment key={first.schedule.id} moment={first} count={count} />
      ))}
      {single.map((moment) => (
        <Moment key={`${moment.schedule.id} ${moment.due_at}`} moment={moment} />
      ))}
    </ul>
  );
}

function Moment({ moment, count = 1 }: { moment: UpcomingMoment; count?: number }) {
  const { schedule, closed, targets } = moment;
  return (
    <li>
      <Time at={moment.fire_at} />
      {count > 1 && <b>and {(count - 1).toLocaleString("en")} times more</b>}
      <Link to={`/schedules/${schedule.id}`}>
        <b>
          <Text of={schedule.job_name} />
        </b>{" "}
        <Text of={schedule.name} />
      </Link>
      <span class="dim">
        {targets === 0 ? "never executed yet" : `${targets.toLocaleString("en")} targets`}
      </span>
      {closed && (
        <span class="tone hold">
          <Text of={`skipped: closed by ${closed.calendar}: ${closed.reason}`} />
        </span>
      )}
    </li>
  );
}

/** Minutes in which several schedules begin together. */
function Crowd({ moments }: { moments: readonly UpcomingMoment[] }) {
  const together = sameMinute(moments);
  if (together.length === 0) return null;
  const { at, count, targets } = together[0]!;
  return (
    <p class="tone warn crowd">
      At <Time at={at} /> {count} schedules begin in the same minute
      {targets > 0 && `, on ${targets.toLocaleString("en")} targets together`}.
    </p>
  );
}

function NothingTonight() {
  const next = useResource(
    (signal) =>
      ask("GET /schedules", {
        query: { sort: "next_due_at", enabled: ["true"], limit: 1 },
        signal,
      }),
    [],
  );
  const first = next.data.value?.items[0];
  return (
    <Empty why="Nothing runs by itself tonight.">
      {first?.next_due_at ? (
        <p>
          Next: <Link to={`/schedules/${first.id}`}>{first.name}</Link>{" "}
          <Time at={first.next_due_at} />
        </p>
      ) : (
        <p class="dim">No schedule has a due time to come.</p>
      )}
    </Empty>
  );
}

/** The load of each hour of the coming week. */
function Week() {
  const forecast = useResource(
    (signal) => ask("GET /schedules/forecast", { signal }),
    [],
    REFRESH_SECONDS,
  );
  return (
    <Panel title="The coming week, by the hour">
      <Loaded resource={forecast} what="the forecast">
        {(week) => (
          <div class="stack-tight">
            <Bars label="Firings by the hour" bars={week.hours.map(barOf)} height={BARS_HEIGHT} />
            <p>
              <Text of={week.words} />
            </p>
            {week.collisions.slice(0, 10).map((one) => (
              <p key={`${one.schedule.id} ${one.due_at}`} class="tone hold">
                <Time at={one.due_at} />{" "}
                <Text
                  of={`${one.schedule.name} of ${one.schedule.job_name} is skipped, closed by ${one.calendar}: ${one.reason}`}
                />
              </p>
            ))}
          </div>
        )}
      </Loaded>
    </Panel>
  );
}

function barOf(hour: Hour): Bar {
  const at = new Date(hour.from).toLocaleString("en-GB", CLOCK);
  return {
    label: `${at}: ${hour.firings} firings, ${hour.targets} targets, ${hour.closed} closed`,
    parts: { running: hour.firings, paused: hour.closed },
    onChoose: () => {},
  };
}
