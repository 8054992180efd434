import assert from "node:assert/strict";
import { test } from "node:test";
import { grouped, labelsOf, matching, sorted, tooNarrow } from "../src/matrix/rows.ts";
import { type Filter, formatFilter, parseFilter, toggled } from "../src/state/filter.ts";
import * as selections from "../src/state/selection.ts";
import { matrixOf } from "./kit.ts";

test("a filter reads as it was written", () => {
  assert.deepEqual(parseFilter('status:failed,lost  rack:r7 -name:db "a b"'), [
    { key: "status", values: ["failed", "lost"], not: false },
    { key: "rack", values: ["r7"], not: false },
    { key: "name", values: ["db"], not: true },
    { key: "", values: ["a b"], not: false },
  ]);
});

test("every filter survives the way through the address", () => {
  const keys = ["", "status", "rack", "kubernetes.io/zone", "exit"];
  const values = ["failed", "r 7", 'say "hi"', "a,b", "back\\slash", "-1", "x:y", "ü", " ", "\\"];
  for (const key of keys) {
    for (const not of [false, true]) {
      for (const first of values) {
        for (const second of values) {
          const filter: Filter = [{ key, values: [first, second], not }];
          const params = new URLSearchParams({ f: formatFilter(filter) });
          const read = new URLSearchParams(params.toString()).get("f")!;
          assert.deepEqual(parseFilter(read), filter, formatFilter(filter));
        }
      }
    }
  }
});

test("anything that was typed can be read, and nothing hangs", () => {
  for (const text of [
    "",
    "  ",
    "-",
    ":",
    "status:",
    '"',
    'a"b',
    "status:,",
    "--x",
    "a:b:c",
    "\\",
  ]) {
    const filter = parseFilter(text);
    assert.deepEqual(parseFilter(formatFilter(filter)), filter, text);
  }
});

test("a state is added to the filter and taken away again", () => {
  const one = toggled(parseFilter("rack:r7"), "status", "failed");
  assert.equal(formatFilter(one), "rack:r7 status:failed");
  const two = toggled(one, "status", "lost");
  assert.equal(formatFilter(two), "rack:r7 status:failed,lost");
  assert.equal(
    formatFilter(toggled(toggled(two, "status", "failed"), "status", "lost")),
    "rack:r7",
  );
});

const runs = matrixOf(["failed", "succeeded", "failed", "lost", "waiting"], {
  name: ["web-10", "web-2", "db-1", "web-1", "web-3"],
  exit_code: [100, 0, 1, null, null],
  wave: [0, 0, 1, 1, 1],
  error_code: ["nonzero_exit", null, "nonzero_exit", "lost", null],
  started_ms: [0, 1_000, null, 0, null],
  finished_ms: [10_000, 6_000, null, null, null],
});
const labels = { rack: ["r7", "r7", null, "r8", "r7"] };
const names = (rows: Uint32Array) => [...rows].map((row) => runs.name[row]);

test("terms match together, values of a term apart", () => {
  const found = (text: string) => names(matching(parseFilter(text), runs, labels));
  assert.deepEqual(found("status:failed,lost"), ["web-10", "db-1", "web-1"]);
  assert.deepEqual(found("status:failed status:lost"), ["web-10", "db-1", "web-1"]);
  assert.deepEqual(found("status:failed rack:r7"), ["web-10"]);
  assert.deepEqual(found("-status:failed web"), ["web-2", "web-1", "web-3"]);
  assert.deepEqual(found("exit:none wave:2"), ["web-1", "web-3"]);
  assert.deepEqual(found("error:nonzero_exit exit:100"), ["web-10"]);
  assert.deepEqual(found("took:5s-10s"), ["web-2"]);
  assert.deepEqual(found("took:10s-1min,5ms-6ms"), ["web-10"]);
  assert.deepEqual(found("took:long"), []);
  assert.deepEqual(labelsOf(parseFilter("status:failed rack:r7 web")), ["rack"]);
});

test("an empty result names the words that are too narrow", () => {
  assert.deepEqual(tooNarrow(parseFilter("status:succeeded rack:r8"), runs, labels), [
    "status:succeeded",
    "rack:r8",
  ]);
});

test("rows sort by name as people count, and those without a value come last", () => {
  const all = matching([], runs);
  assert.deepEqual(names(sorted(all, runs, "name", false, 0)), [
    "db-1",
    "web-1",
    "web-2",
    "web-3",
    "web-10",
  ]);
  assert.deepEqual(names(sorted(all, runs, "exit", true, 0)), [
    "web-10",
    "db-1",
    "web-2",
    "web-1",
    "web-3",
  ]);
});

test("cells that are grouped by nothing have no heading", () => {
  const groups = grouped(matching([], runs), runs, "name");
  assert.deepEqual(
    groups.map(({ label }) => label),
    [""],
  );
});

test("cells are grouped by a label, those without it at the end", () => {
  const groups = grouped(matching([], runs), runs, "label:rack", labels);
  assert.deepEqual(
    groups.map(({ label, rows }) => [label, names(Uint32Array.from(rows))]),
    [
      ["rack r7", ["web-2", "web-3", "web-10"]],
      ["rack r8", ["web-1"]],
      ["no rack", ["db-1"]],
    ],
  );
});

test("all but two is the filter minus two, and survives the address", () => {
  let selection = selections.allOf(parseFilter("status:failed"));
  selection = selections.flip(selections.flip(selection, 1_000), 1_002);
  assert.equal(selections.describe(selection), "status:failed − 2");
  assert.equal(selections.isSelected(selection, 1_000, true), false);
  assert.equal(selections.isSelected(selection, 1_005, true), true);
  assert.equal(selections.isSelected(selection, 1_005, false), false);
  for (const each of [selection, selections.NOTHING, selections.allOf([])]) {
    const { sel, flip } = selections.toParams(each);
    assert.deepEqual(selections.fromParams(sel, flip), each);
  }
  const many = Array.from({ length: 9_000 }, (_, n) => 70_000 + n + Math.floor(n / 9));
  const { sel, flip } = selections.toParams({ all: null, flipped: new Set(many) });
  assert.ok(flip!.length < 8_000, `${flip!.length} characters`);
  assert.deepEqual([...selections.fromParams(sel, flip).flipped], many);
  for (const wrong of ["", ".", "x", "1.zzzzzzzzz", "-1.5", "1.2.3", "!.!"]) {
    assert.ok(selections.fromParams(null, wrong).flipped.size < 10, wrong);
  }
  const picked = selections.flip(selections.NOTHING, 7);
  assert.equal(selections.isSelected(picked, 7, false), true);
  assert.ok(selections.isEmpty(selections.flip(picked, 7)));
});
