import assert from "node:assert/strict";
import { test } from "node:test";
import { completions, type FilterWord, toQuery } from "../src/state/list-filter.ts";

const WORDS: FilterWord[] = [
  { word: "status", parameter: "status", values: ["failed", "lost", "partial"] },
  { word: "job", parameter: "job_name" },
  { word: "target", parameter: "target", single: true },
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
