import assert from "node:assert/strict";
import { test } from "node:test";
import type { Hour, Job, TargetHealth, UpcomingMoment } from "../src/api/types.ts";
import { lineDiff, toYaml, written } from "../src/jobs/definition.ts";
import { listed, nightEnd, sameMinute } from "../src/schedules/night.ts";
import { parseEntries, parseLabels } from "../src/inventory/entries.ts";
import { daysOf, mostOf } from "../src/schedules/week.ts";
import { healthReason } from "../src/targets/health.ts";

const HEALTHY: TargetHealth = {
  status: "ok",
  circuit: null,
  maintenance: null,
  last_run: null,
  last_success_at: null,
  last_contact_at: null,
  waiting_runs: 0,
  dead_letters: 0,
};

test("the reason of a health is said in words", () => {
  assert.equal(healthReason(HEALTHY), "");
  const last_run = { status: "unreachable", code: "connect_timeout", at: "" } as const;
  assert.equal(
    healthReason({ ...HEALTHY, status: "unhealthy", last_run }),
    "last run unreachable: connect timeout",
  );
  const maintenance = { until: null, reason: "new disk", by: "ben" };
  assert.equal(
    healthReason({ ...HEALTHY, status: "maintenance", maintenance, waiting_runs: 2 }),
    "new disk (ben) · 2 runs wait",
  );
  const circuit = { state: "open", code: "auth_failed", since: null, until: null } as const;
  assert.equal(
    healthReason({ ...HEALTHY, status: "unhealthy", circuit, dead_letters: 1 }),
    "logins paused after auth failed · 1 dead letter",
  );
});

const JOB = {
  id: 3,
  version: 2,
  status: "new",
  name: "disk",
  description: "",
  tags: [],
  actions: [{ command: "df -h", become: null, env: {} }],
} as unknown as Job;

test("a definition is YAML without what says nothing", async () => {
  assert.deepEqual(written(JOB), { name: "disk", actions: [{ command: "df -h" }] });
  assert.equal(await toYaml(JOB), "name: disk\nactions:\n  - command: df -h\n");
});

test("a difference shows a few lines around each change", async () => {
  const before = Array.from({ length: 20 }, (_, n) => `line ${n}\n`).join("");
  const after = before.replace("line 10\n", "other\n");
  const lines = await lineDiff(before, after);
  assert.deepEqual(
    lines.map(({ sign, text }) => `${sign}${text}`),
    [
      ...["…", " line 7", " line 8", " line 9", "−line 10", "+other"],
      ...[" line 11", " line 12", " line 13", "…"],
    ],
  );
});

function moment(id: number, at: string, more: Partial<UpcomingMoment> = {}): UpcomingMoment {
  const schedule = { id, name: `s-${id}`, job_id: id, job_name: `job-${id}` };
  return { schedule, due_at: at, fire_at: at, local: at, targets: 3, closed: null, ...more };
}

test("a night ends in the morning, at least two hours ahead", () => {
  assert.equal(nightEnd(new Date(2026, 10, 29, 22, 0)).getDate(), 30);
  assert.equal(nightEnd(new Date(2026, 10, 29, 5, 0)).getDate(), 29);
  assert.equal(nightEnd(new Date(2026, 10, 29, 7, 0)).getDate(), 30);
});

test("what begins in the same minute is found, unless a calendar closes it", () => {
  const closed = { calendar: "freeze", reason: "x", until: null };
  const found = sameMinute([
    moment(1, "2026-11-30T02:30:00Z"),
    moment(2, "2026-11-30T02:30:30Z"),
    moment(3, "2026-11-30T02:30:40Z", { closed }),
    moment(4, "2026-11-30T02:31:00Z"),
  ]);
  assert.deepEqual(found, [{ at: "2026-11-30T02:30:00Z", count: 2, targets: 6 }]);
});

test("a schedule that is due very often takes one line", () => {
  const often = Array.from({ length: 9 }, (_, n) => moment(1, `2026-11-30T02:0${n}:00Z`));
  const found = listed([...often, moment(2, "2026-11-30T02:30:00Z")]);
  assert.deepEqual(found.often, [{ first: often[0], count: 9 }]);
  assert.deepEqual(
    found.single.map((one) => one.schedule.id),
    [2],
  );
});

test("every hour of a week has its place in a day", () => {
  const start = Date.parse("2026-11-29T07:00:00Z");
  const hours = Array.from({ length: 168 }, (_, n): Hour => {
    const from = new Date(start + n * 3_600_000).toISOString();
    return { from, firings: n % 24 === 19 ? 5 : 0, closed: n === 19 ? 2 : 0, targets: 3, peak: 1 };
  });
  const days = daysOf(hours, "utc", 1);
  assert.deepEqual(
    days.map((day) => day.slots.length),
    [17, 24, 24, 24, 24, 24, 24, 7],
  );
  assert.deepEqual([days[0]!.words, days[0]!.slots[0]!.place], ["Sun 29 Nov", 7]);
  assert.deepEqual(days[1]!.slots[2], {
    place: 2,
    fromMs: start + 19 * 3_600_000,
    toMs: start + 20 * 3_600_000,
    due: 5,
    skipped: 2,
    targets: 3,
  });
  assert.equal(mostOf(days), 7);
  const twos = daysOf(hours, "utc", 2);
  assert.deepEqual(
    twos[0]!.slots.map((slot) => slot.place),
    [3, 4, 5, 6, 7, 8, 9, 10, 11],
  );
  assert.equal(
    twos.flatMap((day) => day.slots).reduce((sum, slot) => sum + slot.due, 0),
    hours.reduce((sum, hour) => sum + hour.firings, 0),
  );
});

test("targets are read line by line", () => {
  const text = "web-1 10.0.0.5 env=prod role=web\n# off\n\ndb-1 10.0.0.9:2222\nonly-a-name\n";
  assert.deepEqual(parseEntries(text), {
    entries: [
      { name: "web-1", host: "10.0.0.5", labels: { env: "prod", role: "web" } },
      { name: "db-1", host: "10.0.0.9", port: 2222, labels: {} },
      { name: "only-a-name", host: "only-a-name", labels: {} },
    ],
    wrong: [],
  });
  assert.deepEqual(parseEntries("a 1.2.3.4 env\nb env=prod\n").wrong, [1, 2]);
  assert.equal(parseLabels("env=prod, web"), null);
});
