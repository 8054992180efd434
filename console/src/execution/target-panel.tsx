/** One target of the execution: its phases, each action with its attempts and output. */
import { useEffect } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Result, TargetRun, TimelinePhase } from "../api/types.ts";
import type { Runs } from "../matrix/runs.ts";
import { CopyButton } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { durationWords } from "../parts/moment.ts";
import { SidePanel } from "../parts/side-panel.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { wordsOf } from "../parts/tone.ts";
import { Loaded } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { StreamOutput } from "./action-output.tsx";
import { PhaseBar } from "./phases.tsx";
import { waitWords } from "./waits.ts";
import type { ExecutionView } from "./view.ts";

const LIVE_SECONDS = 5;

/** Open the details of a target; null closes them. */
export function openTarget(name: string | null): void {
  setQuery({ target: name }, { replace: false });
}

interface Details {
  run: TargetRun | null;
  phases: TimelinePhase[];
  results: Result[];
}

export function TargetPanel({ view, runs }: { view: ExecutionView; runs: Runs }) {
  const name = query.value.get("target") ?? "";
  const row = runs.rowNamed(name);
  const id = row >= 0 ? runs.target[row]! : "";
  // What changed in the log of this run is read again.
  view.settled.value;
  const state = row >= 0 ? `${runs.status[row]} ${runs.attempt[row]} ${runs.exitCode[row]}` : "";
  const details = useResource(
    (signal) => load(view.id, id, signal),
    [view.id, id],
    view.hasEnded ? null : LIVE_SECONDS,
  );
  useEffect(() => {
    void details.reload();
  }, [state]);
  return (
    <SidePanel
      about={name}
      label={`Target ${name}`}
      title={<Text of={name} />}
      actions={<CopyButton text={name} what="name" />}
      onClose={() => openTarget(null)}
    >
      {row < 0 ? (
        <Empty why={`This execution has no target "${name}".`} />
      ) : (
        <div class="body stack">
          <Loaded resource={details} what="the target">
            {(found) => <Body view={view} runs={runs} row={row} details={found} />}
          </Loaded>
        </div>
      )}
    </SidePanel>
  );
}

async function load(execution: string, target: string, signal: AbortSignal): Promise<Details> {
  if (!target) return { run: null, phases: [], results: [] };
  const given = { path: { id: execution }, query: { target: [target] }, signal };
  const [runs, timeline, results] = await Promise.all([
    ask("GET /executions/{id}/targets", given),
    ask("GET /executions/{id}/timeline", given),
    ask("GET /executions/{id}/results", given),
  ]);
  return { run: runs.items[0] ?? null, phases: timeline.phases, results: results.items };
}

interface BodyProps {
  view: ExecutionView;
  runs: Runs;
  row: number;
  details: Details;
}

function Body({ view, runs, row, details: { run, phases, results } }: BodyProps) {
  if (!run) return <Empty why="Its run is not there." />;
  return (
    <>
      <div class="row">
        <Status state={run.status} />
        {run.exit_code !== null && <span>exit {run.exit_code}</span>}
        {run.attempt > 1 && <span>attempt {run.attempt}</span>}
        {runs.waves > 1 && <span class="dim">wave {runs.wave[row]! + 1}</span>}
        <Link to={`/targets/${encodeURIComponent(run.target.name)}`}>About this machine</Link>
      </div>
      <Reasons view={view} run={run} />
      {phases.length > 0 && <PhaseBar phases={phases} />}
      {results.length === 0 && (
        <Empty
          why={
            run.finished_at === null
              ? "Nothing was started on it yet, so there is no output."
              : "Nothing was started on it, so there is no output."
          }
        />
      )}
      {results.map((result) => (
        <Action
          key={result.id}
          result={result}
          view={view}
          isLast={results.findLast((one) => one.action_key === result.action_key) === result}
        />
      ))}
    </>
  );
}

function Reasons({ view, run }: { view: ExecutionView; run: TargetRun }) {
  const { error, late_result: late } = run;
  return (
    <>
      {error && error.code !== "nonzero_exit" && !run.cancel_proof && (
        <p>
          <Text of={error.message} /> <code>{error.code}</code>
        </p>
      )}
      {run.waiting_for && (
        <p>
          Waits for {waitWords(run.waiting_for, view.execution.data.value)}
          {run.awaits && (
            <>
              : <Text of={run.awaits} />
            </>
          )}
          {run.not_before && (
            <>
              , until <Time at={run.not_before} />
            </>
          )}
        </p>
      )}
      {run.contact_lost_at && (
        <p class="tone warn">
          No contact since <Time at={run.contact_lost_at} ago />. The command may still run there.
        </p>
      )}
      {run.cancel_proof && <p>Cancelled: {PROOFS[run.cancel_proof]}.</p>}
      {late && (
        <p class="tone lost">
          Found out later: {wordsOf(late.status)}
          {late.exit_code !== null && `, exit ${late.exit_code}`}.
        </p>
      )}
    </>
  );
}

/** What a cancel has proved, in words. */
export const PROOFS: Readonly<Record<string, string>> = {
  never_started: "it was never started",
  killed: "everything that it started is gone",
  already_finished: "it had finished before",
  unreachable: "the machine cannot be reached; the command may still run",
};

interface ActionProps {
  view: ExecutionView;
  result: Result;
  /** No later attempt of it is there. */
  isLast: boolean;
}

function Action({ result, view, isLast }: ActionProps) {
  const lines = new URLSearchParams({ tab: "output", on: result.target.name });
  return (
    <section class="action" aria-label={`Action ${result.action_key}`}>
      <div class="row">
        <Status state={result.status} label={result.action_key} />
        {result.exit_code !== null && <span class="small">exit {result.exit_code}</span>}
        {result.attempt > 1 && <span class="small">attempt {result.attempt}</span>}
        <span class="small dim grow">
          {result.duration_ms !== null && durationWords(result.duration_ms)}
        </span>
        {result.inherited_from && (
          <Link class="small" to={`/executions/${result.inherited_from}`}>
            done by #{result.inherited_from}
          </Link>
        )}
      </div>
      {result.command && (
        <pre class="command">
          <Text of={result.command} />
        </pre>
      )}
      {result.error && result.error.code !== "nonzero_exit" && (
        <p class="small tone bad">
          <Text of={result.error.message} />
        </p>
      )}
      <StreamOutput id={view.id} result={result} stream="stdout" isLast={isLast} />
      <StreamOutput id={view.id} result={result} stream="stderr" isLast={isLast} />
      {(result.stdout_truncated || result.stderr_truncated) && (
        <Link class="small" to={`/executions/${view.id}?${lines}`}>
          All of its output
        </Link>
      )}
    </section>
  );
}
