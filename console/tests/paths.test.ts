import assert from "node:assert/strict";
import { test } from "node:test";
import { urlOf } from "../src/api/url.ts";
import { commandLine, curlLine, quote } from "../src/parts/command-line.ts";
import { splitHidden } from "../src/parts/hidden-characters.ts";
import {
  agoWords,
  dueWords,
  durationWords,
  fullWords,
  localWords,
  momentWords,
  timeWords,
} from "../src/parts/moment.ts";
import { toneOf, worstFirst } from "../src/parts/tone.ts";
import { changedSearch, match } from "../src/paths.ts";

test("a path fits a pattern part by part, and names are decoded", () => {
  assert.deepEqual(match("/", "/"), {});
  assert.deepEqual(match("/jobs/:id/launch", "/jobs/3/launch"), { id: "3" });
  assert.deepEqual(match("/targets/:name", "/targets/web%201%2Fa"), { name: "web 1/a" });
  assert.equal(match("/jobs/:id", "/jobs"), null);
  assert.equal(match("/jobs/:id", "/schedules/3"), null);
  assert.equal(match("/targets/:name", "/targets/%zz"), null);
});

test("a change of the query keeps what it does not name", () => {
  const now = new URLSearchParams("q=status:failed&tab=output&tab=x");
  assert.equal(changedSearch(now, { tab: null }), "?q=status%3Afailed");
  assert.equal(changedSearch(now, { q: "", tab: ["a", "b"] }), "?tab=a&tab=b");
});

test("a URL of the API has its parameters encoded, and none that are empty", () => {
  assert.equal(urlOf("/jobs/{id}", { id: "a/b" }), "/api/v1/jobs/a%2Fb");
  const query = { status: ["failed", "lost"], cursor: null, page: 1, sort: "" };
  assert.equal(
    urlOf("/executions", {}, query),
    "/api/v1/executions?status=failed&status=lost&page=1",
  );
  assert.throws(() => urlOf("/jobs/{id}"), TypeError);
});

test("words of a shell are quoted if they must be", () => {
  assert.equal(quote("env=prod"), "env=prod");
  assert.equal(quote("it's"), `'it'\\''s'`);
  assert.equal(commandLine("opsjobs", "run", "uptime; id"), "opsjobs run 'uptime; id'");
  assert.match(curlLine("POST", "/x", { a: "'" }), /-X POST .* -d '\{"a":"'\\''"\}' \/x$/);
});

test("characters that hide or turn text become marks", () => {
  assert.deepEqual(splitHidden("plain\n\ttext"), [{ text: "plain\n\ttext", hidden: false }]);
  assert.deepEqual(
    splitHidden("a\u202eb\u200bc\u001b").map((part) => part.text),
    ["a", "U+202E", "b", "U+200B", "c", "U+001B"],
  );
  assert.deepEqual(splitHidden(""), [{ text: "", hidden: false }]);
});

test("durations and ages are short", () => {
  const words = [340, 4_240, 42_000, 250_000, 7_500_000, 273_600_000].map(durationWords);
  assert.deepEqual(words, ["340 ms", "4.2 s", "42 s", "4 min 10 s", "2 h 5 min", "3 d 4 h"]);
  const now = new Date("2026-11-29T12:00:00Z");
  assert.equal(agoWords(new Date("2026-11-29T11:56:00Z"), now), "4 min ago");
  assert.equal(agoWords(new Date("2026-11-29T14:00:00Z"), now), "in 2 h");
  assert.equal(agoWords(now, now), "now");
});

test("a moment has its day only if that is another one", () => {
  const now = new Date("2026-11-29T12:00:00Z");
  assert.equal(momentWords(new Date("2026-11-29T02:30:00Z"), "utc", now), "02:30:00");
  assert.equal(momentWords(new Date("2026-11-28T02:30:00Z"), "utc", now), "Sat 28 Nov 02:30:00");
  assert.equal(dueWords(new Date("2026-11-29T02:30:00Z"), "utc", now), "Sun 29 Nov 02:30");
  assert.equal(dueWords(new Date("2026-11-29T02:30:05Z"), "utc", now), "Sun 29 Nov 02:30:05");
  assert.match(localWords("2026-11-29T03:30:00+01:00"), /^Sun 29 Nov (2026 )?03:30$/);
});

test("all of a moment has its year and zone", () => {
  const at = new Date("2025-11-28T02:30:05Z");
  assert.equal(fullWords(at, "utc"), "Fri 28 Nov 2025 02:30:05 UTC");
  assert.match(fullWords(at, "local"), /^\w{3} 2[78] Nov 2025 .*(02:30:05 )?UTC$/);
  assert.equal(timeWords(at, "utc", { seconds: false }), "02:30");
});

test("states have tones, and the worst comes first", () => {
  assert.equal(toneOf("failed"), "bad");
  assert.equal(toneOf("a state of a later release"), "wait");
  const counts = { succeeded: 5, waiting: 0, lost: 1, failed: 2, running: 3 };
  assert.deepEqual(
    worstFirst(counts).map(([state]) => state),
    ["failed", "lost", "running", "succeeded"],
  );
});
