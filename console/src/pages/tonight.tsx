/** Tonight: what runs by itself until tomorrow morning, and in the coming week? */
import { Fragment } from "preact";
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Forecast, Hour, UpcomingMoment, UpcomingMoments } from "../api/types.ts";
import { type Bar, Bars } from "../parts/bars.tsx";
import { Empty } from "../parts/empty.tsx";
import { dayWords, timeWords } from "../parts/moment.ts";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { countWords } from "../parts/counts.ts";
import { Link } from "../router.tsx";
import { listed, nightEnd, sameMinute } from "../schedules/night.ts";
import { daysOf, mostOf, type Slot } from "../schedules/week.ts";
import { useResource } from "../state/resource.ts";
import { taste } from "../state/taste.ts";
import "../style/launch.css";

const REFRESH_SECONDS = 60;
const BARS_HEIGHT = 32;
const LISTED = 500;
const HOUR_MS = 3_600_000;
const DAY_HOURS = 24;
/** Bars are buttons of at least 24 pixels: in a narrower window each is two hours. */
const NARROW = 800;
/** Clock times above the bars. */
const MARK_HOURS = 6;

export default function Tonight() {
  const { clock } = taste.value;
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
      <Panel title={`Until ${dayWords(until, clock)} ${timeWords(until, clock, SHORT)}`} flush>
        <Loaded resource={moments} what="due times">
          {(found) =>
            found.moments.length ? (
              <>
                <Crowd moments={found.moments} />
                <Entries moments={found.moments} />
                <NotListed found={found} />
              </>
            ) : (
              <>
                <NothingTonight />
                <NotListed found={found} />
              </>
            )
          }
        </Loaded>
      </Panel>
      <Week />
    </div>
  );
}

const SHORT = { seconds: false };

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

/** What the list lacks. */
function NotListed({ found }: { found: UpcomingMoments }) {
  const { complete_until, to, left_out } = found;
  return (
    <>
      {complete_until !== to && (
        <p class="dim">
          There is more from <Time at={complete_until} /> on.
        </p>
      )}
      {left_out > 0 && (
        <p class="dim">{countWords(left_out, "schedule")} not looked at: there are too many.</p>
      )}
    </>
  );
}

function Moment({ moment, count = 1 }: { moment: UpcomingMoment; count?: number }) {
  const { schedule, closed, targets } = moment;
  return (
    <li>
      <Time at={moment.fire_at} due />
      <Link to={`/schedules/${schedule.id}`}>
        <b>
          <Text of={schedule.job_name} />
        </b>{" "}
        <Text of={schedule.name} />
      </Link>
      <span class="dim">
        {targets === 0 ? "never executed yet" : countWords(targets, "target")}
      </span>
      {count > 1 && <b>and {countWords(count - 1, "more time")}</b>}
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
      At <Time at={at} due /> {count} schedules begin in the same minute
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
    <Empty why="Nothing is due tonight.">
      {first?.next_due_at && (
        <p>
          Next: <Link to={`/schedules/${first.id}`}>{first.name}</Link>{" "}
          <Time at={first.next_due_at} due />
        </p>
      )}
      {next.data.value && !first && (
        <Link class="button" to="/schedules">
          Show schedules
        </Link>
      )}
    </Empty>
  );
}

/** The load of each hour of the coming week; an hour lists what is due in it. */
function Week() {
  const forecast = useResource(
    (signal) => ask("GET /schedules/forecast", { signal }),
    [],
    REFRESH_SECONDS,
  );
  return (
    <Panel title="The coming week: due times by the hour">
      <Loaded resource={forecast} what="the forecast">
        {(week) => (
          <div class="stack-tight">
            <Hours hours={week.hours} />
            <p>
              <Text of={weekWords(week)} />
            </p>
            {week.collisions.slice(0, 10).map((one) => (
              <p key={`${one.schedule.id} ${one.due_at}`} class="tone hold">
                <Time at={one.due_at} due />{" "}
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

/** A line of bars for each day, all of them in one scale. */
function Hours({ hours }: { hours: readonly Hour[] }) {
  const [chosen, setChosen] = useState<Span | null>(null);
  const hoursEach = innerWidth < NARROW ? 2 : 1;
  const days = daysOf(hours, taste.value.clock, hoursEach);
  const most = mostOf(days);
  const each = hoursEach === 1 ? "an hour" : `${hoursEach} hours`;
  return (
    <>
      <p class="row small">
        <Status state="running" label="due" />
        <Status state="paused" label="skipped by a calendar" />
        {most > 0 && (
          <span class="dim">
            The highest bar is {countWords(most, "due time")} in {each}.
          </span>
        )}
      </p>
      <div class="week" style={{ "--slots": DAY_HOURS / hoursEach }}>
        <ClockTimes hoursEach={hoursEach} />
        {days.map((day) => (
          <Fragment key={day.words}>
            <span class="small">{day.words}</span>
            <Bars
              label={`Due times of ${day.words}`}
              bars={day.slots.map((slot) => barOf(slot, () => setChosen(slot)))}
              height={BARS_HEIGHT}
              most={Math.max(1, most)}
            />
          </Fragment>
        ))}
      </div>
      {chosen && <InSpan key={chosen.fromMs} span={chosen} />}
    </>
  );
}

function ClockTimes({ hoursEach }: { hoursEach: number }) {
  const times = Array.from({ length: DAY_HOURS / MARK_HOURS }, (_, n) => n * MARK_HOURS);
  return (
    <div class="clock-times small dim" aria-hidden="true">
      {times.map((hour) => (
        <span key={hour} style={{ gridColumnStart: hour / hoursEach + 1 }}>
          {String(hour).padStart(2, "0")}:00
        </span>
      ))}
    </div>
  );
}

/** The week in words, its busiest hour in the zone that is shown. */
function weekWords({ firings, schedules, closed, busiest, left_out }: Forecast): string {
  const words = [`${countWords(firings, "due time")} of ${countWords(schedules, "schedule")}`];
  if (closed) words.push(`${closed.toLocaleString("en")} skipped by calendars`);
  if (busiest[0]) {
    const fromMs = Date.parse(busiest[0].from);
    words.push(`busiest: ${spanWords({ fromMs, toMs: fromMs + HOUR_MS })}`);
  }
  return [words.join(" · "), ...left_out].join(". ");
}

type Span = Pick<Slot, "fromMs" | "toMs">;

/** What is due in some hours. */
function InSpan({ span }: { span: Span }) {
  const [from, to] = [span.fromMs, span.toMs].map((ms) => new Date(ms).toISOString());
  const moments = useResource(
    (signal) =>
      ask("GET /schedules/moments", { query: { from: from!, to: to!, limit: LISTED }, signal }),
    [from],
  );
  return (
    <section aria-label={spanWords(span)} aria-live="polite">
      <h3>{spanWords(span)}</h3>
      <Loaded resource={moments} what="due times">
        {(found) => (
          <>
            {found.moments.length ? (
              <Entries moments={found.moments} />
            ) : (
              <Empty why="Nothing is due then." />
            )}
            <NotListed found={found} />
          </>
        )}
      </Loaded>
    </section>
  );
}

/** Some hours in words: Mon 30 Nov, 02:00 to 03:00. */
function spanWords({ fromMs, toMs }: Span): string {
  const { clock } = taste.value;
  const [start, end] = [new Date(fromMs), new Date(toMs)];
  return `${dayWords(start, clock)}, ${timeWords(start, clock, SHORT)} to ${timeWords(end, clock, SHORT)}`;
}

function barOf(slot: Slot, onChoose: () => void): Bar {
  const facts = [
    countWords(slot.due, "due time"),
    countWords(slot.targets, "target"),
    ...(slot.skipped ? [`${slot.skipped} skipped`] : []),
  ];
  return {
    label: `${spanWords(slot)}: ${slot.due + slot.skipped ? facts.join(", ") : "nothing"}`,
    parts: { running: slot.due, paused: slot.skipped },
    place: slot.place,
    onChoose,
  };
}
