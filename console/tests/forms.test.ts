import assert from "node:assert/strict";
import { test } from "node:test";
import { RequestError } from "../src/api/problem.ts";
import { inWords } from "../src/api/stale.ts";
import type {
  NotificationRule,
  ParameterDraft,
  Schedule,
  ShownTarget,
  Trigger,
} from "../src/api/types.ts";
import { added, SNIPPETS } from "../src/jobs/snippets.ts";
import { readYaml } from "../src/jobs/yaml-body.ts";
import {
  draftOf as scheduleDraft,
  fieldsOf as scheduleFields,
  newFields,
  saysWhen,
} from "../src/schedules/draft.ts";
import {
  eventWords,
  fieldsOf as ruleFields,
  hasOwnText,
  quietWords,
  ruleOf,
  trialWords,
} from "../src/notifications/draft.ts";
import { answerLeaving, hasUnsaved, leave, leaving, setUnsaved } from "../src/state/unsaved.ts";
import {
  draftOf as targetDraft,
  fieldsOf as targetFields,
  labelsOf,
} from "../src/targets/draft.ts";
import { draftOf as triggerDraft, fieldsOf as triggerFields } from "../src/triggers/draft.ts";

test("a schedule is sent with the fields of its kind, and keeps what the form does not show", () => {
  const fields = {
    ...newFields("Europe/Berlin"),
    kind: "weekly" as const,
    weekdays: ["mon"] as const,
  };
  const draft = scheduleDraft(fields, {}, null) as unknown as Record<string, unknown>;
  assert.deepEqual(
    [draft["type"], draft["every"], draft["weekdays"], draft["time"], draft["interval"]],
    ["recurring", "weekly", ["mon"], "02:30", 1],
  );
  assert.ok(!("cron" in draft) && !("at" in draft) && !("name" in draft));
  assert.equal(saysWhen({ ...fields, weekdays: [] }), false);
  const stored = {
    ...{ type: "recurring", every: "hours", interval: 6, timezone: "UTC", name: "often" },
    ...{ time: null, weekdays: null, day: null, at: null, local_time: null, cron: null },
    ...{ misfire: "skip", misfire_window: "1h", overlap: "queue", jitter: "5m", calendars: ["x"] },
    ...{ start_at: null, end_at: null, max_firings: 3, enabled: false, dst_gap: "skip" },
    ...{ dst_fold: "twice", anchor: "2026-01-01T00:00:00Z", notify: [], version: 4 },
  } as unknown as Schedule;
  const same = scheduleDraft(scheduleFields(stored), { p: 1 }, stored);
  const kept = same as unknown as Record<string, unknown>;
  for (const name of [
    "interval",
    "overlap",
    "jitter",
    "max_firings",
    "enabled",
    "anchor",
    "notify",
  ])
    assert.deepEqual(kept[name], (stored as unknown as Record<string, unknown>)[name], name);
  assert.deepEqual(
    [kept["dst_gap"], kept["dst_fold"], kept["parameters"]],
    ["skip", "twice", { p: 1 }],
  );
  const once = scheduleDraft(
    { ...scheduleFields(stored), kind: "once", at: "2026-12-24T18:00" },
    {},
    stored,
  );
  assert.ok(!("anchor" in once) && !("dst_fold" in once) && !("every" in once));
});

test("a target is sent with the options of its transport only", () => {
  const stored = {
    ...{ id: "1", name: "win-1", host: "10.0.0.9", port: 5986, transport: "winrm" },
    ...{ platform: "windows", credential: null, jump: null, labels: { env: "prod" }, groups: [] },
    ...{ zone: "default", slots: 10, host_key_policy: "pinned", durable: "auto", version: 3 },
    ...{ host_keys: [], health: null },
    winrm: {
      ...{ scheme: "https", auth: "ntlm", engine: "psrp", configuration: "jea", verify: true },
      ...{ ca: null, fingerprint: "ab" },
    },
  } as unknown as ShownTarget;
  const draft = targetDraft(targetFields(stored), stored) as unknown as Record<string, never>;
  assert.equal(draft["version"], 3);
  assert.deepEqual(draft["labels"], { env: "prod" });
  assert.ok(!("jump" in draft) && !("host_key_policy" in draft));
  assert.equal((draft["winrm"] as Record<string, unknown>)["configuration"], "jea");
  const ssh = targetDraft({ ...targetFields(stored), transport: "ssh", port: "x" }, stored);
  assert.ok(!("winrm" in ssh));
  assert.equal(ssh.port as unknown, "x", "the server says what is wrong with it");
  assert.deepEqual(labelsOf("env=prod, url=a=b,odd"), { env: "prod", url: "a=b", odd: "" });
});

test("a definition knows the lines of its parts, and of its mistakes", async () => {
  const read = await readYaml("name: a\nactions:\n  - command: df\n  - script: |\n      x\n");
  assert.deepEqual(read.body?.["name"], "a");
  assert.equal(read.lineOf("/actions/1/script"), 4);
  assert.equal(read.lineOf("/actions/0/command/deeper"), 3);
  assert.equal(read.lineOf("/nowhere"), null);
  const wrong = await readYaml("name: a\nactions: [\n");
  assert.equal(wrong.body, null);
  assert.ok(wrong.remarks[0]!.line! >= 2 && wrong.remarks[0]!.grave);
  assert.equal((await readYaml("- a")).body, null);
  for (const several of ["name: a\n---\nname: b\n", "jobs:\n  - name: a\n"]) {
    const { body, remarks } = await readYaml(several);
    assert.equal(body, null);
    assert.match(remarks[0]!.words, /^This form takes one job\./);
  }
});

test("a trigger is sent as it was read", () => {
  const parameters = [{ name: "branch" }, { name: "level", type: "integer" }, { name: "rest" }];
  const stored = {
    ...{ name: "push", description: "", verify: "github", max_calls_per_minute: 6 },
    ...{ expires_at: null, enabled: true, updated_at: "2026-11-25T09:00:00.000Z" },
    parameters: { branch: { pointer: "/ref" }, level: { value: 3 } },
    when: [
      { pointer: "/ref", equals: "refs/heads/main" },
      { header: "X-Event", any_of: ["push", "3", 3, true] },
      { pointer: "/ref", any_of: ["a,b", '"a', 'b"', "", 'say "a, b"', "\\", " c", "d"] },
      { pointer: "/deleted", exists: false },
    ],
  } as unknown as Trigger;
  const asked = parameters as unknown as ParameterDraft[];
  const draft = triggerDraft(triggerFields(stored), asked, stored) as unknown as Trigger;
  assert.deepEqual(draft.parameters, stored.parameters);
  assert.deepEqual(draft.when, stored.when);
  assert.equal(draft.updated_at, stored.updated_at, "a change meanwhile is refused");
  assert.ok(!("updated_at" in triggerDraft(triggerFields(null), asked, null)));
});

test("values with commas between them may be typed in quotes", () => {
  const listed = (text: string) => {
    const conditions = [{ place: "/ref", test: "any_of" as const, text }];
    const draft = triggerDraft({ ...triggerFields(null), conditions }, [], null);
    return draft.when![0]!.any_of;
  };
  assert.deepEqual(listed('main, "a,b",dev,'), ["main", "a,b", "dev"]);
  assert.deepEqual(listed(',"a" b, 3 , "3" ,say "c", d'), ['"a" b', 3, "3", 'say "c"', "d"]);
  assert.deepEqual(listed(" "), []);
});

test("a refusal of an old version names no field that the form does not have", () => {
  const refused = (pointer: string, code = "read_only") =>
    inWords(
      new RequestError({
        ...{ type: "about:blank", title: "Invalid", status: 422, code, request_id: "r-1" },
        detail: `${pointer}: version is read-only: it is 4, not 3.`,
        errors: [{ pointer, detail: "version is read-only", code }],
      }),
    );
  for (const pointer of ["/version", "/updated_at"]) {
    const said = refused(pointer);
    assert.match(said.message, /^Somebody has changed this meanwhile/);
    assert.deepEqual([said.errors, said.code, said.requestId], [[], "read_only", "r-1"]);
  }
  assert.match(refused("/owner").message, /^\/owner/);
  assert.match(refused("/version", "invalid").message, /^\/version/);
});

test("what is not saved is left only after a question", () => {
  const form = { contains: () => false } as unknown as Node;
  let left = 0;
  leave(() => left++);
  assert.equal(left, 1);
  setUnsaved(form, true);
  leave(() => left++);
  assert.deepEqual([left, leaving.value !== null], [1, true]);
  answerLeaving({ lose: false });
  assert.deepEqual([left, hasUnsaved()], [1, true]);
  leave(() => left++);
  answerLeaving({ lose: true });
  assert.deepEqual([left, hasUnsaved()], [2, false]);
});

test("a notification rule is sent without its defaults, and stays as it is otherwise", () => {
  const empty = ruleFields(null);
  const fresh = ruleOf({ ...empty, to: { ...empty.to, email: "ops@example.org, " } });
  assert.deepEqual(fresh, {
    ...{ on: ["failed", "recovered"], channel: "email", to: ["ops@example.org"] },
  });
  assert.equal(`${eventWords(fresh)}: ${quietWords(fresh)}`, "failed, back to normal: each time");
  const stored = {
    ...{ on: ["failed", "late"], channel: "service", to: ["17"], channel_id: "c", subject: "s" },
    ...{ text: " as it is\n", late_after: "10m" },
    quiet: { only_changes: true, digest: "1h", max_per_hour: 10 },
  } as unknown as NotificationRule;
  assert.deepEqual(ruleOf(ruleFields(stored)), stored);
  assert.equal(quietWords(stored), "only changes, one message for 1h, at most 10 an hour");
  assert.deepEqual(trialWords(stored).slice(2), [
    ...["test", "service", "17", "--channel-id", "c", "--subject", "s"],
  ]);
  const other = ruleOf({ ...ruleFields(stored), channel: "email", perHour: "x", on: ["failed"] });
  assert.ok(!("channel_id" in other) && !("late_after" in other));
  assert.deepEqual([hasOwnText(stored), hasOwnText(fresh)], [true, false]);
  assert.equal(other.quiet?.max_per_hour as unknown, "x", "the server says what is wrong with it");
});

test("a rule keeps its recipients while other channels are tried", () => {
  const stored = { on: ["failed"], channel: "email", to: ["a@b.org", "c@d.org"] };
  const fields = ruleFields(stored as unknown as NotificationRule);
  const tried = { ...fields, channel: "webhook" as const };
  assert.deepEqual(ruleOf(tried).to, []);
  const typed = { ...tried, to: { ...tried.to, webhook: "chat" } };
  assert.deepEqual(ruleOf(typed).to, ["chat"]);
  assert.deepEqual(ruleOf({ ...typed, channel: "email" }), stored);
});

test("a snippet goes to the end of its field", () => {
  const [command, , , parameter, waves] = SNIPPETS;
  const text = "name: disk\nactions:\n  - command: df\n";
  const two = added(text, command!)!;
  assert.equal(two, `${text}  - key: step-2\n    command: echo hello\n`);
  assert.match(added(two, command!)!, /key: step-3\n/);
  const asked = added("parameters: []\nactions:\n  - command: df\n", parameter!)!;
  assert.ok(asked.startsWith("parameters:\n  - name: service\n"));
  assert.ok(asked.endsWith("actions:\n  - command: df\n"));
  assert.match(added(text, waves!)!, /\npolicy:\n {2}waves: /);
  assert.ok(
    added("actions:\n- command: df\n", command!)!.endsWith(
      "\n- key: step-2\n  command: echo hello\n",
    ),
  );
  assert.equal(added("actions: [{command: df}]\n", command!), null);
});

test("a snippet keeps comments, order and indentation, and sets no field twice", async () => {
  const [command, , , parameter, waves] = SNIPPETS;
  const actions = "actions: # what runs\n    - command: df\n    # the last one\n";
  const policy = "\n# How it runs\npolicy: {} # few\n";
  const more = added(`# Disks\n${actions}${policy}`, command!)!;
  const step = "    - key: step-2\n      command: echo hello\n";
  assert.equal(more, `# Disks\n${actions}${step}${policy}`);
  const all = added(added(more, waves!)!, parameter!)!;
  assert.ok(all.includes('\npolicy: # few\n  waves: [1, "10%", "100%"]\n'));
  const { body } = await readYaml(all);
  assert.deepEqual(Object.keys(body!), ["actions", "policy", "parameters"]);
  assert.equal(added(all, waves!), all);
  const own = "policy:\n    waves: [2]\n";
  assert.equal(added(own, waves!), `${own}    max_fail: "5%"\n`);
  assert.ok(added("", command!)!.startsWith("actions:\n"));
});
