import assert from "node:assert/strict";
import { test } from "node:test";
import { completions, expectedOf, type FilterWord, toQuery } from "../src/state/list-filter.ts";

const WORDS: FilterWord[] = [
  { word: "status", parameter: "status", values: ["failed", "lost", "partial"] },
  { word: "job", parameter: "job_name" },
  { word: "target", parameter: "target", single: true },
];
const MORE: FilterWord[] = [
  ...WORDS,
  { word: "object", parameter: "thing", values: ["job", "target"], open: true },
  { word: "id", parameter: "id", kind: "number" },
  { word: "after", parameter: "at_after", kind: "time" },
];

test("words become parameters of the API", () => {
  assert.deepEqual(toQuery('status:failed,lost job:"patch web" disk', WORDS), {
    query: { status: ["failed", "lost"], job_name: ["patch web"] },
    text: "disk",
    unknown: [],
  });
  assert.deepEqual(toQuery("colour:red -status:failed", WORDS).unknown, [
    "colour:red",
    "-status:failed",
  ]);
});

test("of a word with a single value the first one counts, and the others are said", () => {
  const read = (filter: string) => {
    const { query, unknown } = toQuery(filter, WORDS);
    return [query["target"], unknown];
  };
  assert.deepEqual(read("target:web-1"), [["web-1"], []]);
  assert.deepEqual(read("target:web-1,web-2"), [["web-1"], ["target:web-2"]]);
  assert.deepEqual(read("target:web-1 status:lost target:web-2,web-3"), [
    ["web-1"],
    ["target:web-2,web-3"],
  ]);
});

test("the word at the end is completed", () => {
  assert.deepEqual(completions("st", WORDS), ["status:"]);
  assert.deepEqual(completions("job:a status:", WORDS), [
    "job:a status:failed ",
    "job:a status:lost ",
    "job:a status:partial ",
  ]);
  assert.deepEqual(completions("status:lost", WORDS), []);
});

test("a word that is half typed is not sent, and what it takes is said", () => {
  const expected = (filter: string) => expectedOf(filter, MORE);
  for (const text of ["status:", "status:fai", "status:failed,los", "-x status: "])
    assert.equal(expected(text), "status: takes failed, lost, partial.", text);
  for (const text of ["after:", "after:2026-", "after:2026-11-29T08", "after:2026-13-01"])
    assert.match(expected(text) ?? "", /^after: takes a time/, text);
  assert.equal(expected("id:1x"), "id: takes a number.");
  assert.equal(expected("object:ta"), "object: takes job, target, ….");
  assert.equal(expected("target:"), "target: takes a value.");
  assert.match(expected('job:"patch w') ?? "", /quotes/);
  for (const text of ["", "web", "status:failed,lost", "object:user", "id:17", "after:2026-11-29"])
    assert.equal(expected(text), null, text);
  for (const text of ["colour:", "-status:fai", 'job:"patch web"', "target:we"])
    assert.equal(expected(text), null, text);
});

test("a time without an offset is one of the clock that is shown", () => {
  const sent = (value: string) => toQuery(`after:${value}`, MORE, "utc").query["at_after"];
  assert.deepEqual(sent("2026-11-29"), ["2026-11-29T00:00:00.000Z"]);
  assert.deepEqual(sent("2026-11-29T08:30"), ["2026-11-29T08:30:00.000Z"]);
  assert.deepEqual(sent("2026-11-29T08:30:15+01:00"), ["2026-11-29T07:30:15.000Z"]);
  assert.deepEqual(sent("2026-"), ["2026-"], "the server says what is wrong with a link");
  const [local] = toQuery("after:2026-11-29T08:30", MORE, "local").query["at_after"]!;
  assert.equal(new Date(local!).getHours(), 8);
});
