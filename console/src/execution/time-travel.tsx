/** The run as it was: a slider over the time of the execution, kept in the URL as `at`. */
import { createParser } from "eventsource-parser";
import { useEffect, useState } from "preact/hooks";
import { arrived, askRaw } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import type { LogFrame, Runs } from "../matrix/runs.ts";
import { Icon } from "../parts/icon.tsx";
import { Trouble } from "../parts/trouble.tsx";
import { query, setQuery } from "../router.tsx";
import { frameOf } from "../state/live-runs.ts";
import { instantOf, Replay } from "../state/replay.ts";
import type { ExecutionView } from "./view.ts";

const STEPS = 1_000;
/** A shorter run is told in milliseconds. */
const FINE_MS = 60_000;
/** A stream that sends nothing for this long has sent what was written so far. */
const QUIET_MS = 1_000;

export function TimeTravel({ view, runs }: { view: ExecutionView; runs: Runs }) {
  const at = query.value.get("at");
  const [replay, setReplay] = useState<Replay | null>(null);
  const [error, setError] = useState<RequestError | null>(null);
  useEffect(() => {
    if (at === null || replay) return;
    const stop = new AbortController();
    loadReplay(view.id, runs, stop.signal).then(
      (found) => !stop.signal.aborted && setReplay(found),
      (failed) => {
        if (failed instanceof RequestError) setError(failed);
        else if (!stop.signal.aborted) throw failed;
      },
    );
    return () => stop.abort();
  }, [at !== null, view, runs]);
  const atMs = at !== null && replay ? clamped(at, replay) : null;
  useEffect(() => {
    view.show(replay && atMs !== null ? { replay, atMs } : null);
  }, [view, replay, atMs]);
  if (at === null) {
    return (
      <button
        type="button"
        class="button small plain travel-open"
        title="The states of the targets at any time of the run"
        onClick={() => setQuery({ at: clockOf(Date.now()) }, { replace: false })}
      >
        <Icon name="clock" /> Replay …
      </button>
    );
  }
  return (
    <div class="travel row">
      {error && <Trouble error={error} />}
      {!replay && !error && <span role="status">Loading the past …</span>}
      {replay && atMs !== null && <Slider replay={replay} atMs={atMs} />}
      <span class="small dim">Groups, output and the details of a target are those of now.</span>
      <button
        type="button"
        class="button small"
        onClick={() => setQuery({ at: null }, { replace: false })}
      >
        Back to now
      </button>
    </div>
  );
}

function Slider({ replay, atMs }: { replay: Replay; atMs: number }) {
  const span = Math.max(1, replay.untilMs - replay.fromMs);
  const value = Math.round(((atMs - replay.fromMs) / span) * STEPS);
  const words = clockOf(atMs, span < FINE_MS);
  return (
    <>
      <input
        type="range"
        min={0}
        max={STEPS}
        value={Math.max(0, Math.min(STEPS, value))}
        aria-label="Time"
        aria-valuetext={words}
        onInput={(event) => {
          const share = Number(event.currentTarget.value) / STEPS;
          setQuery({ at: new Date(replay.fromMs + share * span).toISOString() });
        }}
      />
      <output>{words}</output>
    </>
  );
}

function clockOf(ms: number, fine = false): string {
  const clock = new Date(ms).toLocaleTimeString("en-GB", { hour12: false });
  return fine ? `${clock}.${String(Math.floor(ms) % 1_000).padStart(3, "0")}` : clock;
}

/** The time of the URL, within the span of the run. */
function clamped(at: string, { fromMs, untilMs }: Replay): number {
  return Math.min(untilMs, Math.max(fromMs, instantOf(at, fromMs) ?? untilMs));
}

/** Read all changes of state: to the end, or until nothing more comes. */
async function loadReplay(id: string, runs: Runs, stop: AbortSignal): Promise<Replay> {
  const response = await askRaw("GET /executions/{id}/events", {
    path: { id },
    query: { after: 0, kinds: "status" },
    signal: stop,
  });
  const frames: LogFrame[] = [];
  let ended = false;
  const parser = createParser({
    onEvent: (event) => {
      if (event.event === "end") ended = true;
      else frames.push(frameOf(event));
    },
  });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  while (!ended) {
    const quiet = new Promise<null>((resolve) => setTimeout(() => resolve(null), QUIET_MS));
    const read = await Promise.race([arrived(reader.read()), quiet]);
    if (read === null || read.done) break;
    parser.feed(read.value);
  }
  void reader.cancel();
  return new Replay(runs, frames);
}
