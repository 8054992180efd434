/** The head of an execution: what, who, how far, what it waits for, and what can be done. */
import type { Execution, ExecutionDetail, WaitingOn } from "../api/types.ts";
import { type GatePolicy, type Wave, wavesOf } from "../matrix/waves.ts";
import { Icon, type IconName } from "../parts/icon.tsx";
import { useTitle } from "../parts/shell.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toneOf, wordsOf, worstFirst } from "../parts/tone.ts";
import { Link, setQuery } from "../router.tsx";
import { formatFilter, toggled, valuesOf } from "../state/filter.ts";
import { Actions } from "./actions.tsx";
import { DecideButtons } from "./decide.tsx";
import { Lineage } from "./lineage.tsx";
import { nameOf } from "./name.ts";
import { Name } from "./name-shown.tsx";
import { badCounts } from "./outcome.tsx";
import { ResumeButton } from "./pause.tsx";
import { Took } from "./took.tsx";
import type { ExecutionView } from "./view.ts";

const SIGNS = {
  ok: "✓",
  live: "◔",
  wait: "○",
  hold: "‖",
  warn: "△",
  bad: "✕",
  lost: "?",
  off: "–",
};

export function Head({ view, execution }: { view: ExecutionView; execution: ExecutionDetail }) {
  const counts = view.past.value ? view.counts.value : countsOf(view, execution);
  const tone = toneOf(execution.status);
  const bad = badCounts(counts).reduce((sum, [, count]) => sum + count, 0);
  useTitle(`${SIGNS[tone]}${bad ? ` ${bad}` : ""} · ${nameOf(execution)}`, tone);
  return (
    <header class="stack-tight">
      <div class="head">
        <h1>
          {execution.job_id === null ? (
            <Name of={execution} id={execution.id} />
          ) : (
            <Link to={`/jobs/${execution.job_id}`}>
              <Name of={execution} id={execution.id} />
            </Link>
          )}
        </h1>
        <Status state={execution.status} />
        <Since execution={execution} />
        <div class="actions">
          <Actions view={view} execution={execution} />
        </div>
      </div>
      <About execution={execution} />
      {execution.waiting_on && (
        <Waiting view={view} execution={execution} on={execution.waiting_on} />
      )}
      {execution.error && (
        <p class="notice tone bad">
          <Icon name="bad" /> Stopped: <Text of={execution.error} />
        </p>
      )}
      <Lineage execution={execution} />
      <TallyFilter view={view} counts={counts} total={execution.total_targets} />
      <WaveSegments view={view} execution={execution} />
    </header>
  );
}

/** The columns are ahead of the execution while it runs; without them its own counts do. */
function countsOf(view: ExecutionView, execution: Execution): Record<string, number> {
  return view.runs.value ? view.counts.value : execution.counts;
}

function Since({ execution }: { execution: Execution }) {
  const { finished_at } = execution;
  return (
    <span class="dim">
      {finished_at ? (
        <>
          took <Took of={execution} /> from the launch, ended <Time at={finished_at} ago />
        </>
      ) : (
        <>
          <Took of={execution} /> since the launch
        </>
      )}
    </span>
  );
}

const TRIGGERS: Readonly<Record<string, string>> = {
  manual: "launched by",
  api: "launched by",
  schedule: "launched on schedule, for",
  webhook: "launched by a trigger of",
  retry: "retried by",
  workflow: "launched by a workflow, for",
};

function About({ execution }: { execution: Execution }) {
  const { requested_by, reason, labels, triggered_by, created_at } = execution;
  return (
    <p class="row dim">
      <span>
        {TRIGGERS[triggered_by] ?? "launched by"} <Text of={requested_by} />{" "}
        <Time at={created_at} />
      </span>
      {reason && (
        <span class="reason">
          “<Text of={reason} />”
        </span>
      )}
      {Object.entries(labels).map(([key, value]) => (
        <code key={key} class="label">
          <Text of={`${key}=${value}`} />
        </code>
      ))}
    </p>
  );
}

/** Add a word to the filter or take it away, and show the targets that it is about. */
function filterBy(view: ExecutionView, key: string, value: string): void {
  const text = formatFilter(toggled(view.filter.value, key, value));
  setQuery({ q: text || null, tab: "targets" }, { replace: false });
}

/** Each state with its number; choosing one filters by it. */
function TallyFilter(props: {
  view: ExecutionView;
  counts: Record<string, number>;
  total: number;
}) {
  const { view, counts, total } = props;
  const chosen = valuesOf(view.filter.value, "status");
  const pairs = worstFirst(counts);
  return (
    <div class="tally-filter" role="group" aria-label={`States of ${total} targets`}>
      {pairs.map(([state, count]) => (
        <button
          key={state}
          type="button"
          class={`tally-part ${toneOf(state)}`}
          aria-pressed={chosen.includes(state)}
          style={{ flexGrow: Math.max(count / Math.max(1, total), 0.02) }}
          title={`Show only ${wordsOf(state)}`}
          onClick={() => filterBy(view, "status", state)}
        >
          <span class="tally-words">
            <Icon name={toneOf(state) as IconName} turning={state === "running"} />
            <b>{count.toLocaleString("en")}</b> {wordsOf(state)}
          </span>
        </button>
      ))}
    </div>
  );
}

function WaveSegments({ view, execution }: { view: ExecutionView; execution: Execution }) {
  view.settled.value;
  const runs = view.shown.value;
  const gate = (view.spec.value?.policy["gate"] ?? null) as GatePolicy | null;
  const waves = runs ? wavesOf(runs, view.past.value ? null : execution, gate) : [];
  if (waves.length === 0) return null;
  return (
    <ol class="waves" aria-label="Waves">
      {waves.map((wave) => (
        <li key={wave.number} class={wave.state}>
          {wave.gate && <span class="gate small dim">gate: {wave.gate} →</span>}
          <button
            type="button"
            class="button small"
            onClick={() => filterBy(view, "wave", String(wave.number))}
          >
            <span class="wave-fill" style={{ inlineSize: `${shareOf(wave)}%` }} />
            <span class="wave-words">
              <Icon name={WAVE_ICONS[wave.state]} /> wave {wave.number}:{" "}
              {wave.ended.toLocaleString("en")}/{wave.total.toLocaleString("en")}
              {wave.failed > 0 && (
                <span class="tone bad"> ✕ {wave.failed.toLocaleString("en")}</span>
              )}
            </span>
          </button>
        </li>
      ))}
    </ol>
  );
}

const WAVE_ICONS = { ended: "ok", open: "live", held: "hold", closed: "wait" } as const;

const shareOf = (wave: Wave): number => Math.floor((100 * wave.ended) / Math.max(1, wave.total));

interface WaitingProps {
  view: ExecutionView;
  execution: Execution;
  on: WaitingOn;
}

/** What it waits for, with the button that answers. */
function Waiting({ view, execution, on }: WaitingProps) {
  const words = {
    pause: `Paused${on.by ? ` by ${on.by}` : ""}`,
    confirm: "The next wave waits for a person",
    max_fail: "Paused: too many targets failed",
    check: "Paused: the check after the wave failed",
    exclusive: "Waits for a lock",
    approval: "Waits for an approval",
    workers: "No worker can take it",
    maintenance: "Its targets are under maintenance",
    hold: "Its targets are held",
    slot: "Its targets are busy",
  }[on.kind];
  return (
    <div class="notice row">
      <span class="tone hold">
        <Icon name="hold" />
      </span>
      <span class="grow">
        <b>{words ?? wordsOf(on.kind)}</b>
        {on.reason && (
          <>
            : <Text of={on.reason} />
          </>
        )}
        {on.until && (
          <>
            {" "}
            (until <Time at={on.until} />)
          </>
        )}
      </span>
      {["pause", "confirm", "max_fail", "check"].includes(on.kind) && (
        <ResumeButton view={view} execution={execution} kind={on.kind} />
      )}
      {on.kind === "approval" && on.approval ? (
        <DecideButtons view={view} approval={String(on.approval)} />
      ) : null}
      {on.kind === "exclusive" && on.execution ? (
        <Link class="button" to={`/executions/${on.execution}`}>
          Show #{on.execution}
        </Link>
      ) : null}
      {on.kind === "workers" && (
        <Link class="button" to="/system">
          Show the workers
        </Link>
      )}
      {on.target && ["maintenance", "hold", "slot"].includes(on.kind) && (
        <Link class="button" to={`/targets/${encodeURIComponent(on.target)}`}>
          Show <Text of={on.target} />
        </Link>
      )}
    </div>
  );
}
