import assert from "node:assert/strict";
import { test } from "node:test";
import type { ParameterDraft, Specification } from "../src/api/types.ts";
import { launchAgain } from "../src/launch/again.ts";
import { byCommand } from "../src/launch/commands.ts";
import { draftOf, launchCommand, missing, runBody } from "../src/launch/draft.ts";
import { executeBody, faultOf, jobCommand, queryName, typedOf } from "../src/launch/parameters.ts";
import { completedLists, selectionOf, selectionWords } from "../src/launch/selection.ts";
import { firstNames } from "../src/parts/natural-order.ts";

const draft = (query: string) => draftOf(new URLSearchParams(query));
const NOTHING = { selector: "", groups: "", names: "", except: "" };

test("a launch in the URL is the same request and the same command", () => {
  const one = draft(
    "command=systemctl restart nginx&l=env%3Dprod&x=web-2, web-3&as=root&parallel=5&why=it's slow",
  );
  assert.deepEqual(runBody(one), {
    actions: [{ command: "systemctl restart nginx", become: { user: "root" } }],
    targets: { selector: "env=prod", exclude: ["web-2", "web-3"] },
    policy: { max_parallel: 5 },
    reason: "it's slow",
  });
  assert.equal(
    launchCommand(one),
    "opsjobs run 'systemctl restart nginx' -l env=prod -x web-2,web-3 --become-user root --parallel 5 --reason 'it'\\''s slow'",
  );
});

test("a script goes to the command as a here-document whose end it does not hold", () => {
  const one = draft("kind=script&script=echo a%0AEOF%0A&g=web");
  assert.equal(
    launchCommand(one),
    "opsjobs run --script - --interpreter bash -g web <<'EOF_'\necho a\nEOF\nEOF_",
  );
  assert.deepEqual(runBody(one)?.actions, [{ script: "echo a\nEOF\n", interpreter: "bash" }]);
});

test("a file is uploaded, and has no command", () => {
  const one = draft("kind=file&source=motd&to=/etc/motd&t=web-1");
  assert.deepEqual(runBody(one)?.actions, [
    { type: "file_transfer", direction: "upload", source: "motd", destination: "/etc/motd" },
  ]);
  assert.equal(launchCommand(one), null);
});

test("what is missing is said in words, and nothing is sent until then", () => {
  for (const [query, words] of [
    ["l=env", "Write a command."],
    ["kind=script&l=env", "Write a script."],
    ["kind=file&l=env", "Choose a file."],
    ["kind=file&source=a&l=env", "Write a destination."],
    ["command=uptime", "Select targets."],
    ["command=uptime&x=web-1", "Select targets."],
    ["command=uptime&l=env&parallel=many", "Parallel: write a number, such as 50."],
  ] as const) {
    assert.equal(missing(draft(query)), words);
    assert.equal(runBody(draft(query)), null);
  }
});

test("lists are split, completed and taken alone for a job", () => {
  const picked = { ...NOTHING, groups: "web, db,,web", except: "web-1" };
  assert.deepEqual(selectionOf(picked), { groups: ["web", "db"], exclude: ["web-1"] });
  assert.equal(selectionOf({ ...NOTHING, except: "web-1" }), null);
  assert.deepEqual(selectionOf({ ...NOTHING, except: "web-1" }, true), { exclude: ["web-1"] });
  assert.deepEqual(selectionWords(picked), ["-g", "web,db", "-x", "web-1"]);
  assert.deepEqual(completedLists("web,d", ["web", "db"]), ["web,db"]);
});

const parameter = (more: Partial<ParameterDraft>): ParameterDraft => ({ name: "p", ...more });

test("parameters are checked while they are typed", () => {
  const cases: [Partial<ParameterDraft>, string, string | null][] = [
    [{ required: true }, " ", "It is required."],
    [{ required: true, from_credential: "db" }, "", null],
    [{ type: "integer" }, "1.5", "Write a whole number."],
    [{ type: "integer", min: 3 }, "2", "It must be at least 3."],
    [{ type: "number", max: 3 }, "3.5", "It must be at most 3."],
    [{ type: "number" }, "1e3", null],
    [{ type: "datetime" }, "soon", "Write a time with its zone, such as 2026-12-01T02:30:00Z."],
    [{ type: "string", pattern: "[a-z]+" }, "nginx", null],
    [{ type: "string", pattern: "[a-z]+" }, "nginx1", "It must fit [a-z]+."],
    [{ type: "string", pattern: "(?P<x>a)" }, "b", null],
    [{ type: "string", max_length: 2 }, "abc", "It has more than 2 characters."],
  ];
  for (const [one, text, fault] of cases) assert.equal(faultOf(parameter(one), text), fault);
});

test("values go to the API by type, and secrets neither to the URL nor to the command", () => {
  const job = {
    name: "patch web",
    parameters: [
      parameter({ name: "service", default: "nginx" }),
      parameter({ name: "count", type: "integer" }),
      parameter({ name: "level", type: "choice", choices: [1, 2] }),
      parameter({ name: "zones", type: "multi_choice", choices: ["a", "b"] }),
      parameter({ name: "hosts", type: "host_list" }),
      parameter({ name: "force", type: "boolean" }),
      parameter({ name: "key", type: "secret" }),
      parameter({ name: "empty" }),
    ],
  };
  const query = new URLSearchParams(
    "p.count=3&p.level=2&p.zones=a%0Ab&p.hosts=web-1, web-2&p.force=true&p.key=in-the-url",
  );
  assert.equal(queryName(job.parameters[6]!), null);
  const typed = { ...typedOf(job, query), key: "s3cret" };
  assert.deepEqual(executeBody(job, typed, NOTHING, "").parameters, {
    service: "nginx",
    count: 3,
    level: 2,
    zones: ["a", "b"],
    hosts: ["web-1", "web-2"],
    force: true,
    key: "s3cret",
  });
  assert.equal(typedOf(job, query)["key"], "");
  const command = jobCommand(job, typed, { ...NOTHING, names: "web-1" }, "");
  assert.match(command, /^opsjobs jobs run 'patch web' -p service=nginx -p count=3 .* -t web-1$/);
  assert.doesNotMatch(command, /s3cret/);
});

const COMMAND = {
  ...{ key: "step-1", type: "command", command: "systemctl restart nginx", env: {}, cwd: null },
  ...{ timeout: "60s", become: { user: "root", method: "sudo", credential: null }, stdin: null },
  ...{
    durable: "auto",
    outputs: "none",
    expected_exit_codes: [0],
    on_failure: "stop",
    retry: null,
  },
};
const POLICY = {
  ...{ max_parallel: 5, order: "inventory", priority: 5, waves: [], notify: null, retry: null },
  ...{ hold_offline: "0s", on_lost: "ask", durable: "auto", exclusive: [], timeout: null },
};

test("what ran fills the form that launches it", () => {
  const spec = { actions: [COMMAND], parameters: {}, policy: POLICY };
  const again = launchAgain(spec, ["web-1", "web-2"]);
  assert.ok("query" in again);
  assert.deepEqual(runBody(draft(again.query)), {
    actions: [{ command: "systemctl restart nginx", timeout: "60s", become: { user: "root" } }],
    targets: { ids: ["web-1", "web-2"] },
    policy: { max_parallel: 5 },
  });
});

test("what the form cannot hold is said and not left out", () => {
  const why = (change: Partial<Specification>, names = ["web-1"]) => {
    const spec = { actions: [COMMAND], parameters: {}, policy: POLICY, ...change };
    const again = launchAgain(spec, names);
    return "why" in again ? again.why : null;
  };
  const one = (fields: object) => ({ actions: [{ ...COMMAND, ...fields }] });
  assert.match(why({ actions: [COMMAND, COMMAND] })!, /this had 2/);
  assert.match(why(one({ env: { A: "1" }, cwd: "/tmp" }))!, /no field for env, cwd\./);
  assert.match(why(one({ become: { user: "root", method: "su" } }))!, /become/);
  assert.match(why(one({ type: "wait" }))!, /a command or a script/);
  assert.match(why({ policy: { ...POLICY, waves: [1, 5] } })!, /waves/);
  assert.match(why({ parameters: { version: "1" } })!, /parameters/);
  assert.match(why({}, Array(501).fill("web"))!, /up to 500/);
});

test("equal commands of a preview are one with several targets, in the order of names", () => {
  const of = (target: string, command: string) => ({ target, action: "step-1", command });
  const commands = [of("web-10", "uptime"), of("web-2", "uptime"), of("web-3", "echo web-3")];
  assert.deepEqual(byCommand(commands), [
    { action: "step-1", command: "uptime", targets: ["web-2", "web-10"] },
    { action: "step-1", command: "echo web-3", targets: ["web-3"] },
  ]);
});

test("the first names are those that come first as people count", () => {
  const names = Array.from({ length: 20 }, (_, n) => `web-${20 - n}`);
  assert.equal(firstNames(names), "web-1, web-2, web-3, web-4, web-5, web-6, web-7, web-8, …");
  assert.equal(firstNames(["b", "a-10", "a-9"]), "a-9, a-10, b");
  assert.equal(firstNames(["a"], 200), "a, …");
});
