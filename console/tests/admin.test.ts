import assert from "node:assert/strict";
import { test } from "node:test";
import { changesOf } from "../src/audit/links.ts";
import { windowWords } from "../src/calendars/words.ts";
import { secretsOf } from "../src/credentials/secrets.ts";
import { lineOf } from "../src/safety/lines.ts";
import { bytesWords } from "../src/system/bytes.ts";

test("a change is shown by the fields that differ", () => {
  const before = { name: "a", tags: ["x"], timeout: "5s" };
  const after = { name: "a", tags: ["x", "y"] };
  assert.deepEqual(changesOf({ before, after }), [
    { field: "tags", before: '["x"]', after: '["x","y"]' },
    { field: "timeout", before: "5s", after: "" },
  ]);
  assert.deepEqual(changesOf({ before: null, after: { a: 1 } }), [
    { field: "a", before: "", after: "1" },
  ]);
});

test("windows of calendars are read aloud", () => {
  assert.equal(
    windowWords({ weekdays: ["fri", "sat"], start: "22:00", end: "06:00" }),
    "Fri, Sat 22:00 to 06:00",
  );
  assert.equal(windowWords({ start: "22:00", end: "06:00" }), "every day 22:00 to 06:00");
  const span = { from: "2026-12-24T18:00:00", until: "2026-12-27T00:00:00+01:00" };
  assert.equal(windowWords(span), "from 2026-12-24 18:00 until 2026-12-27 00:00+01:00");
  assert.equal(windowWords({ yearly: ["01-01"] }), "each year on 01-01");
});

test("a key ends with its last line, and empty secrets are not sent", () => {
  assert.deepEqual(secretsOf({ private_key: " -----BEGIN\nEND----- \n\n", passphrase: "" }), {
    private_key: "-----BEGIN\nEND-----\n",
  });
});

test("a finding has the line of its excerpt", () => {
  assert.equal(lineOf("set -e\nrm -rf /", "rm -rf /"), 2);
  assert.equal(lineOf("set -e\nrm -rf /very/long", "rm -rf /very…"), 2);
  assert.equal(lineOf("a", "b"), null);
});

test("sizes have one unit", () => {
  assert.deepEqual([0, 1_023, 1_536, 13_735_615, 2 ** 50].map(bytesWords), [
    "0 B",
    "1023 B",
    "1.5 KiB",
    "13.1 MiB",
    "1024 TiB",
  ]);
});
