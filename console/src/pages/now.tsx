/** Now: what runs, and is anything wrong? */
import { useCallback } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Execution, Schedule } from "../api/types.ts";
import { Name } from "../execution/name-shown.tsx";
import { Took } from "../execution/took.tsx";
import { JobToLaunch } from "../launch/job-to-launch.tsx";
import { factsOf, loadNeeds } from "../now/needs.ts";
import { countWords } from "../parts/counts.ts";
import { Command, Empty } from "../parts/empty.tsx";
import { Icon } from "../parts/icon.tsx";
import { momentWords } from "../parts/moment.ts";
import { Panel } from "../parts/panel.tsx";
import { useTitle } from "../parts/shell.tsx";
import { Status, Tally, TallyBar } from "../parts/status.tsx";
import { Strip } from "../parts/strip.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { TONES, toneOf, worstFirst } from "../parts/tone.ts";
import { Loaded } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";
import { useEvents } from "../state/events.ts";
import { type Resource, useResource } from "../state/resource.ts";
import { askIf, inSight, mayDo, mayLaunch, onlyLaunches } from "../state/rights.ts";
import { me } from "../state/session.ts";
import { taste } from "../state/taste.ts";
import "../style/now.css";

const OPEN = ["pending_approval", "queued", "running", "paused", "cancelling"];
const ENDED = ["completed", "partial", "failed", "timeout", "cancelled", "rejected"];
const DAY_MS = 86_400_000;
const SECONDS = 15;
const FAILED_SHOWN = 20;
const GOOD_SHOWN = 5;

export default function Now() {
  const needs = useResource(loadNeeds, [], SECONDS);
  const running = useResource(loadRunning, [], SECONDS);
  const ended = useResource(loadEnded, [], SECONDS);
  const next = useResource(loadNext, [], SECONDS);
  useEvents(["approval.*", "circuit.*", "worker.*", "target_run.*"], needs.reload);
  const onExecution = useCallback(() => {
    void running.reload();
    void ended.reload();
  }, [running, ended]);
  useEvents(["execution.*", "approval.*"], onExecution);
  useEvents(["schedule.*"], next.reload);
  const shown = running.data.value?.items;
  const count = shown ? shown.length : 0;
  useTitle(count ? `${count} · Now` : "Now", count ? "live" : null);
  return (
    <div class="stack">
      <h1 class="hidden-text">Now</h1>
      {onlyLaunches() ? (
        <Panel title="Launch a job">
          <JobToLaunch />
        </Panel>
      ) : (
        <Needs needs={needs} />
      )}
      {mayDo("executions:read") && (
        <>
          <Running running={running} next={next} />
          <Ended ended={ended} />
        </>
      )}
      {mayDo("schedules:read") && <Next next={next} />}
    </div>
  );
}

/** People who only launch see what they have launched. */
const mine = () => (onlyLaunches() ? { requested_by: [me.value!.name] } : {});

const loadRunning = (signal: AbortSignal) =>
  askIf(mayDo("executions:read"), () =>
    ask("GET /executions", { query: { ...mine(), status: OPEN, limit: 100 }, signal }),
  );

const loadEnded = (signal: AbortSignal) => {
  const since = new Date(Date.now() - DAY_MS).toISOString();
  return askIf(mayDo("executions:read"), () =>
    ask("GET /executions", {
      query: { ...mine(), status: ENDED, finished_after: [since], limit: 100 },
      signal,
    }),
  );
};

const loadNext = (signal: AbortSignal) =>
  askIf(mayDo("schedules:read"), () =>
    ask("GET /schedules", { query: { enabled: ["true"], sort: "next_due_at", limit: 8 }, signal }),
  );

function Needs({ needs }: { needs: Resource<Awaited<ReturnType<typeof loadNeeds>>> }) {
  return (
    <Panel title="Needs you">
      <Loaded resource={needs} what="what needs you">
        {(data) => {
          const facts = factsOf(data, (at) => momentWords(new Date(at), taste.value.clock));
          return facts.length ? (
            <Strip label="Needs you" facts={facts} />
          ) : (
            <p class="row dim">
              <span class="tone ok">
                <Icon name="ok" />
              </span>
              Nothing waits for you.
            </p>
          );
        }}
      </Loaded>
    </Panel>
  );
}

interface RunningProps {
  running: Resource<Awaited<ReturnType<typeof loadRunning>>>;
  next: Resource<Awaited<ReturnType<typeof loadNext>>>;
}

function Running({ running, next }: RunningProps) {
  const data = running.data.value;
  const number = data && `${data.items.length.toLocaleString("en")}${data.next ? "+" : ""}`;
  // Without any, the empty panel has the button.
  const launch = data && data.items.length > 0 && mayLaunch() && !onlyLaunches() && (
    <Link to="/launch" class="button small">
      Launch …
    </Link>
  );
  return (
    <Panel title={`Running${number ? ` (${number})` : ""}`} actions={launch} flush>
      <Loaded resource={running} what="what runs">
        {(found) =>
          found?.items.length ? (
            <ul class="lines running">
              {found.items.map((execution) => (
                <RunningLine key={execution.id} execution={execution} />
              ))}
            </ul>
          ) : (
            <Idle next={next.data.value?.items[0]} />
          )
        }
      </Loaded>
    </Panel>
  );
}

function RunningLine({ execution }: { execution: Execution }) {
  const { counts, total_targets: total, waves, waiting_on: wait } = execution;
  const done = total - (counts["waiting"] ?? 0) - (counts["running"] ?? 0);
  const approval = wait?.approval;
  return (
    <li>
      <Headline execution={execution} />
      <span class="dim who cut">
        <Text of={execution.requested_by} />, <Took of={execution} />
      </span>
      <span class="progress">
        <TallyBar counts={counts} total={total} />
      </span>
      <span class="small">
        {done.toLocaleString("en")}/{total.toLocaleString("en")}
        {waves && waves.total > 1 && `, wave ${waves.open} of ${waves.total}`}
      </span>
      <span class="tallies small">
        <Tally counts={omitted(counts, "succeeded", "waiting")} />
      </span>
      {wait && (
        <span class="why small">
          waiting: <Text of={wait.reason ?? wait.kind} />
          {approval ? (
            <Link to={`/approvals/${approval}`} class="button small">
              Show
            </Link>
          ) : null}
        </span>
      )}
    </li>
  );
}

function Headline({ execution }: { execution: Execution }) {
  return (
    <span class="name">
      <Status state={execution.status} label="" />
      <Link to={`/executions/${execution.id}`}>
        <b>
          <Name of={execution} id={execution.id} />
        </b>
      </Link>
    </span>
  );
}

/** Nothing runs: what comes next, or how to begin. */
function Idle({ next }: { next: Schedule | undefined }) {
  const targets = useResource(
    (signal) =>
      askIf(mayDo("targets:manage"), () =>
        ask("GET /targets", { query: { page: 1, size: 1 }, signal }),
      ),
    [],
  );
  if (targets.data.value?.total === 0)
    return (
      <Empty why={`Nothing is running, and there are no targets yet${inSight("targets:read")}.`}>
        <p class="row">
          <Link to="/targets?add=1" class="button primary">
            New target …
          </Link>
          <Link to="/targets/import" class="button">
            Import …
          </Link>
        </p>
        <Command intro="Or try it on a lab on this machine:" text="opsjobs up --lab 12" />
      </Empty>
    );
  return (
    <Empty why="Nothing is running.">
      {next?.next_due_at && (
        <p>
          Next:{" "}
          <Link to={`/schedules/${next.id}`}>
            <Text of={next.job_name ?? next.name} />
          </Link>
          , <Time at={next.next_due_at} due />
        </p>
      )}
      {mayLaunch() && !onlyLaunches() && (
        <Link to="/launch" class="button">
          Launch …
        </Link>
      )}
    </Empty>
  );
}

function Ended({ ended }: { ended: Resource<Awaited<ReturnType<typeof loadEnded>>> }) {
  return (
    <Panel title="Ended in the last day" flush>
      <Loaded resource={ended} what="what ended">
        {(found) => {
          const { items, next } = found ?? { items: [], next: null };
          const order = (one: Execution) => TONES.indexOf(toneOf(one.status));
          const sorted = items.toSorted((a, b) => order(a) - order(b) || b.id - a.id);
          const bad = sorted.filter((one) => one.status !== "completed").slice(0, FAILED_SHOWN);
          const good = sorted.filter((one) => one.status === "completed");
          const rest = good.length - GOOD_SHOWN;
          if (!items.length) return <Empty why="Nothing ended in the last 24 hours." />;
          return (
            <ul class="lines ended">
              {[...bad, ...good.slice(0, GOOD_SHOWN)].map((execution) => (
                <EndedLine key={execution.id} execution={execution} />
              ))}
              {(rest > 0 || next) && (
                <li>
                  <Link to="/executions" class="all">
                    <Status
                      state="completed"
                      label={rest > 0 ? `${rest}${next ? "+" : ""} more completed` : "more"}
                    />
                  </Link>
                </li>
              )}
            </ul>
          );
        }}
      </Loaded>
    </Panel>
  );
}

function EndedLine({ execution }: { execution: Execution }) {
  const { counts, total_targets: total } = execution;
  const [worst] = worstFirst(omitted(counts, "succeeded"));
  const words = worst
    ? `${worst[1].toLocaleString("en")} of ${total.toLocaleString("en")} ${worst[0].replaceAll("_", " ")}`
    : countWords(total, "target");
  return (
    <li>
      <Headline execution={execution} />
      <span class={worst ? `tone ${toneOf(worst[0])}` : "dim"}>{words}</span>
      <span class="dim who cut">
        <Text of={execution.requested_by} />
      </span>
      <span class="dim end">
        <Took of={execution} />, <Time at={execution.finished_at} ago />
      </span>
    </li>
  );
}

function Next({ next }: { next: Resource<Awaited<ReturnType<typeof loadNext>>> }) {
  return (
    <Panel title="Next">
      <Loaded resource={next} what="schedules">
        {(page) => {
          const due = (page?.items ?? []).filter((one) => one.next_due_at);
          if (!due.length) return <p class="dim">No schedule is due.</p>;
          return (
            <ul class="strip">
              {due.map((one) => (
                <li key={one.id} title={one.words}>
                  <Time at={one.next_due_at} due />{" "}
                  <Link to={`/schedules/${one.id}`}>
                    <Text of={one.job_name ?? one.name} />
                  </Link>
                </li>
              ))}
            </ul>
          );
        }}
      </Loaded>
    </Panel>
  );
}

function omitted(counts: Record<string, number>, ...states: string[]): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).filter(([state]) => !states.includes(state)));
}
