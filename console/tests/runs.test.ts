import assert from "node:assert/strict";
import { test } from "node:test";
import type { RunStatus } from "../src/api/types.ts";
import { histogram, slowest } from "../src/matrix/durations.ts";
import { type LogFrame, tally } from "../src/matrix/runs.ts";
import { matching, sorted } from "../src/matrix/rows.ts";
import { RUN_STATUSES, TONE_OF } from "../src/matrix/states.ts";
import { wavesOf } from "../src/matrix/waves.ts";
import { TONES } from "../src/parts/tone.ts";
import { parseFilter } from "../src/state/filter.ts";
import { instantOf, Replay } from "../src/state/replay.ts";
import { matrixOf, moved } from "./kit.ts";

function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return state / 2_147_483_648;
  };
}

test("counts equal the columns after any order of entries, repeated and late ones too", () => {
  for (let seed = 1; seed <= 50; seed++) {
    const next = random(seed);
    const runs = matrixOf(Array.from({ length: 200 }, (): RunStatus => "waiting"));
    const frames: LogFrame[] = [];
    const last = new Map<number, RunStatus>();
    for (let seq = 11; seq < 1_500; seq++) {
      const run = 1_000 + Math.floor(next() * 201); // one of them is another execution's
      const status = RUN_STATUSES[Math.floor(next() * RUN_STATUSES.length)]!;
      frames.push(moved(seq, run, status));
      if (run < 1_200) last.set(run, status);
    }
    for (let n = 0; n < frames.length; n++) {
      runs.apply(frames[n]!);
      if (next() < 0.1) runs.apply(frames[Math.floor(next() * (n + 1))]!); // a repetition
    }
    const expected = new Map<string, number>();
    for (let n = 0; n < runs.count; n++) {
      const status = last.get(1_000 + n) ?? "waiting";
      assert.equal(RUN_STATUSES[runs.status[n]!], status);
      expected.set(status, (expected.get(status) ?? 0) + 1);
    }
    RUN_STATUSES.forEach((status, n) => {
      assert.equal(runs.counts[n], expected.get(status) ?? 0, status);
    });
    assert.deepEqual(runs.counts, tally(runs.status));
  }
});

test("an entry that the snapshot includes changes nothing", () => {
  const runs = matrixOf(["succeeded"]);
  assert.equal(runs.apply(moved(10, 1_000, "running")), -1);
  assert.equal(runs.apply(moved(11, 1_000, "failed", 900)), 0);
  assert.equal(runs.errorCode[0], "nonzero_exit");
  assert.equal(runs.finishedMs[0], 900);
});

test("a result gives the exit code, the attempt and the proof of a cancel", () => {
  const runs = matrixOf(["running"]);
  const data = { target_run: 1_000, exit_code: 100, attempt: 2, cancel_proof: "killed" };
  runs.apply({ seq: 11, event: "result", at: 0, data });
  assert.deepEqual([runs.exitCode[0], runs.attempt[0], runs.proof[0]], [100, 2, "killed"]);
  runs.apply({ seq: 12, event: "result", at: 0, data: { ...data, cancel_proof: null } });
  assert.equal(runs.proof[0], "killed");
});

test("each state has a tone", () => {
  assert.equal(TONE_OF.length, RUN_STATUSES.length);
  for (const tone of TONE_OF) assert.ok(TONES.includes(tone));
});

test("a histogram holds each ended run once, and the slowest come first", () => {
  const statuses = Array.from({ length: 300 }, (_, n): RunStatus => (n ? "succeeded" : "running"));
  const runs = matrixOf(statuses, {
    started_ms: statuses.map(() => 0),
    finished_ms: statuses.map((_, n) => (n ? n * 37 : null)),
  });
  const bins = histogram(runs, 24);
  assert.ok(bins.length <= 24);
  assert.equal(bins.flatMap((bin) => bin.rows).length, 299);
  for (const bin of bins) {
    for (const row of bin.rows) {
      assert.ok(runs.finishedMs[row]! >= bin.fromMs && runs.finishedMs[row]! < bin.toMs);
    }
  }
  assert.deepEqual(slowest(runs, 2, runs.createdAt + 60_000), [0, 299]);
  assert.deepEqual(histogram(matrixOf(["waiting"]), 24), []);
});

test("waves say how far they are, and which gate holds the next one", () => {
  const statuses: RunStatus[] = ["succeeded", "succeeded", "failed", "waiting", "waiting"];
  const runs = matrixOf(statuses, { wave: [0, 1, 1, 2, 2] });
  const execution = { waves: { open: 2, total: 3 }, waiting_on: { kind: "max_fail" } };
  const waves = wavesOf(runs, execution as never, { check: {}, confirm: true });
  assert.deepEqual(
    waves.map((w) => [w.number, w.total, w.ended, w.failed, w.state, w.gate]),
    [
      [1, 1, 1, 0, "ended", null],
      [2, 2, 2, 1, "ended", "check, then confirm"],
      [3, 2, 0, 0, "held", "check, then confirm"],
    ],
  );
  assert.deepEqual(wavesOf(matrixOf(["waiting"]), execution as never, null), []);
});

test("a replay shows the runs as they were at any time", () => {
  const now = { error_code: [null, "nonzero_exit"], exit_code: [0, 1], attempt: [1, 2] };
  const runs = matrixOf(["succeeded", "failed"], { ...now, wave: [0, 1] });
  const replay = new Replay(runs, [
    moved(1, 1_000, "running", 100),
    moved(2, 1_001, "running", 200),
    moved(3, 1_000, "succeeded", 300),
    { seq: 4, event: "output", at: runs.createdAt, data: {} },
    moved(6, 1_001, "failed", 400),
  ]);
  const at = (ms: number) => replay.runsAt(runs.createdAt + ms);
  const states = (ms: number) => [...at(ms).status].map((index) => RUN_STATUSES[index]);
  assert.deepEqual(states(0), ["waiting", "waiting"]);
  assert.deepEqual(states(250), ["running", "running"]);
  assert.deepEqual(states(300), ["succeeded", "running"]);
  assert.deepEqual(states(9_999), ["succeeded", "failed"]);
  assert.equal(replay.untilMs, runs.createdAt + 400);

  const past = at(300);
  const found = (filter: string) => [...matching(parseFilter(filter), past)];
  assert.deepEqual([found("status:failed"), found("status:running")], [[], [1]]);
  assert.deepEqual([found("error:none"), found("exit:1")], [[0, 1], []]);
  assert.deepEqual([...sorted(matching([], past), past, "status", false, 0)], [1, 0]);
  assert.deepEqual([...sorted(matching([], runs), runs, "status", true, 0)], [0, 1]);
  assert.deepEqual(past.counts, tally(past.status));
  assert.deepEqual([past.attempt[1], at(400).attempt[1], at(400).exitCode[1]], [1, 2, 1]);
  assert.equal(past.tookMs(1, runs.createdAt + 300), 100);
  const waves = (ms: number) => wavesOf(at(ms), null, null).map((wave) => wave.state);
  assert.deepEqual(
    [waves(100), waves(250)],
    [
      ["open", "closed"],
      ["open", "open"],
    ],
  );
  assert.equal(RUN_STATUSES[runs.status[1]!], "failed");
});

test("a replay has no results of what came after its entries", () => {
  const runs = matrixOf(["running", "failed"], { attempt: [2, 1], exit_code: [null, 1] });
  const replay = new Replay(runs, [
    moved(1, 1_000, "running", 100),
    moved(2, 1_001, "running", 100),
    moved(3, 1_000, "failed", 200),
    moved(4, 1_001, "failed", 200),
    moved(5, 1_000, "running", 300),
  ]);
  for (const target_run of [1_000, 1_001]) {
    const data = { target_run, exit_code: 7, attempt: 3, cancel_proof: "killed" };
    runs.apply({ seq: 11 + target_run, event: "result", at: runs.createdAt + 900, data });
  }
  const past = replay.runsAt(runs.createdAt + 300);
  assert.deepEqual(past.exitCode, [null, 1]);
  assert.deepEqual(
    [[...past.attempt], past.proof],
    [
      [1, 1],
      [null, null],
    ],
  );
});

test("a clock time is taken on the day of the launch, or on the next one", () => {
  const from = new Date(2026, 10, 28, 23, 50).getTime();
  assert.equal(instantOf("23:55:10", from), new Date(2026, 10, 28, 23, 55, 10, 999).getTime());
  assert.equal(instantOf("00:05", from), new Date(2026, 10, 29, 0, 5, 0, 999).getTime());
  assert.equal(instantOf("2026-11-29T01:00:00Z", from), Date.parse("2026-11-29T01:00:00Z"));
  assert.equal(instantOf("soon", from), null);
});
