import assert from "node:assert/strict";
import { test } from "node:test";
import type { RunStatus } from "../src/api/types.ts";
import type { Runs } from "../src/matrix/runs.ts";
import { RUN_STATUSES } from "../src/matrix/states.ts";
import { Gather } from "../src/state/gather.ts";
import { followRuns, type Source } from "../src/state/live-runs.ts";
import { matrixAnswer } from "./kit.ts";

type Options = Parameters<Source["follow"]>[0];

/** A page that follows; the test plays the server and the frames of the browser. */
class Page {
  frames: (() => void)[] = [];
  options: Options[] = [];
  stopped = 0;
  runs: Runs | null = null;
  drawn: number[][] = [];
  ended = 0;
  failures: unknown[] = [];
  readonly stop: () => void;

  constructor(snapshots: RunStatus[][], seqs = [10, 500, 900]) {
    this.stop = followRuns(
      {
        snapshot: async () => ({ ...matrixAnswer(snapshots.shift()!), seq: seqs.shift()! }),
        follow: (options) => {
          this.options.push(options);
          return () => this.stopped++;
        },
        schedule: (run) => this.frames.push(run),
        rest: async () => {},
      },
      {
        onRuns: (runs) => {
          this.runs = runs;
        },
        onChange: (rows) => this.drawn.push([...rows]),
        onEnd: () => this.ended++,
        onFailure: (failure) => this.failures.push(failure),
      },
    );
  }

  /** The stream sends that a run has this state now. */
  send(seq: number, run: number, status: RunStatus): void {
    const data = JSON.stringify({
      target_run: run,
      status,
      error: null,
      at: "2026-11-29T01:00:01Z",
    });
    this.options.at(-1)!.onEvent({ id: String(seq), event: "status", data });
  }

  draw(): void {
    for (const run of this.frames.splice(0)) run();
  }

  states(): string[] {
    return [...this.runs!.status].map((index) => RUN_STATUSES[index]!);
  }
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("it begins after the position of the snapshot, and draws once a frame", async () => {
  const page = new Page([["waiting", "waiting", "waiting"]]);
  await settled();
  assert.equal(page.options[0]!.after, "10");
  page.send(10, 1_000, "failed"); // in the snapshot already
  page.send(11, 1_000, "running");
  page.send(12, 1_000, "succeeded");
  page.send(13, 1_002, "running");
  assert.deepEqual(page.drawn, []);
  page.draw();
  assert.deepEqual(page.drawn, [[0, 2]]);
  assert.deepEqual(page.states(), ["succeeded", "waiting", "running"]);
});

test("too far behind means a new snapshot and the stream after it, not a loop of them", async () => {
  const page = new Page([["waiting"], ["running"], ["succeeded"]]);
  await settled();
  page.options[0]!.onEnd!({ status: 410 } as never);
  await settled();
  assert.deepEqual(page.states(), ["running"]);
  assert.equal(page.options[1]!.after, "500");
  page.options[1]!.onEnd!({ status: 410 } as never);
  await settled();
  assert.deepEqual(page.failures, [{ status: 410 }]);
  assert.equal(page.options.length, 2);
});

test("after entries came, a later 410 is mended again", async () => {
  const page = new Page([["waiting"], ["running"], ["succeeded"]]);
  await settled();
  page.options[0]!.onEnd!({ status: 410 } as never);
  await settled();
  page.send(501, 1_000, "running");
  page.options[1]!.onEnd!({ status: 410 } as never);
  await settled();
  assert.equal(page.options[2]!.after, "900");
  assert.deepEqual(page.failures, []);
});

test("at the end everything is applied before it is said, and the stream is closed", async () => {
  const page = new Page([["running"]]);
  await settled();
  page.send(11, 1_000, "failed");
  page.options[0]!.onEvent({ id: "12", event: "end", data: '{"status":"failed","counts":{}}' });
  assert.deepEqual([page.states(), page.ended, page.stopped], [["failed"], 1, 1]);
  page.draw();
  assert.deepEqual(page.drawn, [[0]]);
});

test("a refusal is handed on, and a page that was left says nothing more", async () => {
  const refused = new Page([["running"]]);
  await settled();
  refused.options[0]!.onEnd!({ status: 403 } as never);
  assert.deepEqual(refused.failures, [{ status: 403 }]);
  const left = new Page([["running"]]);
  await settled();
  left.send(11, 1_000, "failed");
  left.stop();
  left.draw();
  assert.deepEqual([left.drawn, left.stopped], [[], 1]);
});

test("a thousand entries a second are handed on once a frame", () => {
  const drawn: number[][] = [];
  const frames: (() => void)[] = [];
  const gather = new Gather<number>(
    (items) => drawn.push([...items]),
    (run) => frames.push(run),
  );
  for (let second = 0; second < 60; second++) {
    for (let n = 0; n < 17; n++) gather.push(second * 17 + n);
    assert.equal(frames.length, 1);
    frames.pop()!();
  }
  assert.equal(drawn.length, 60);
  assert.deepEqual(
    drawn.flat(),
    Array.from({ length: 1_020 }, (_, n) => n),
  );
  gather.flush();
  assert.equal(drawn.length, 60);
});
