import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import type { Me } from "../src/api/types.ts";
import { ROUTES } from "../src/routes.ts";
import { loginGate, proofGate } from "../src/state/login.ts";
import {
  mayDo,
  mayDoEverywhere,
  mayLaunch,
  mayLaunchAgain,
  mayOpen,
  mayRunAgain,
  onlyLaunches,
} from "../src/state/rights.ts";
import {
  loadMe,
  login,
  me,
  resumeConfirmed,
  resumeLogin,
  unknownMe,
} from "../src/state/session.ts";

const ADA = who("ada", "user");
let reloads = 0;
let answer = ADA;

beforeEach(() => {
  reloads = 0;
  me.value = ADA;
  Object.assign(globalThis, {
    location: { reload: () => reloads++ },
    fetch: async () => Response.json(answer),
  });
});

function who(name: string, kind: Me["kind"], confirmedForMs = 60_000): Me {
  const until = new Date(Date.now() + confirmedForMs).toISOString();
  return { name, kind, session: { confirmed_until: until } } as unknown as Me;
}

const WAYS = [
  { way: "a login", gate: loginGate, go: () => login({ code: "x" }) },
  { way: "a login in another tab", gate: loginGate, go: resumeLogin },
  { way: "a confirmation in another tab", gate: proofGate, go: resumeConfirmed },
];
for (const { way, gate, go } of WAYS)
  test(`after ${way} what waited goes on as the same identity only`, async () => {
    for (const other of [who("ada", "external"), who("eve", "user")]) {
      void gate.wait();
      answer = other;
      await go();
      assert.equal(gate.open.value, true, "the request still waits");
      assert.deepEqual(me.value, ADA);
    }
    assert.equal(reloads, 2);
    answer = ADA;
    await go();
    assert.equal(gate.open.value, false);
    assert.equal(reloads, 2);
  });

test("a login in another tab that is no new proof confirms nothing", async () => {
  void proofGate.wait();
  answer = who("ada", "user", -1);
  await resumeConfirmed();
  assert.equal(proofGate.open.value, true);
  proofGate.close({ passed: false });
});

test("who launches sees what they launched, within the scope of that right", () => {
  const holds = (permissions: Record<string, string[]>) => {
    me.value = { ...ADA, permissions } as unknown as Me;
  };
  holds({ "jobs:read": [""], "jobs:execute": ["team=web"] });
  assert.equal(onlyLaunches(), true);
  assert.equal(mayDo("executions:read"), true);
  assert.equal(mayDo("executions:read", { team: "web" }), true);
  assert.equal(mayDo("executions:read", { team: "db" }), false);
  assert.equal(mayDoEverywhere("executions:read"), false);
  holds({ "commands:run": ["team=db"] });
  assert.equal(mayDo("executions:read", { team: "db" }), true);
  assert.equal(mayDo("executions:read", { team: "web" }), false);
  holds({ "jobs:read": [""] });
  assert.equal(mayDo("executions:read"), false);
});

test("who is logged in is asked until the service answers", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  me.value = null;
  answer = ADA;
  const found = globalThis.fetch;
  Object.assign(globalThis, { fetch: async () => new Response("", { status: 503 }) });
  await loadMe();
  assert.ok(unknownMe.value?.retryAt);
  Object.assign(globalThis, { fetch: found });
  context.mock.timers.tick(5_000);
  while (me.value === null) await new Promise((done) => setImmediate(done));
  assert.equal(unknownMe.value, null);
});

test("a job and commands without one take a permission each, to launch and to launch again", () => {
  const job = { job_id: 3, labels: { team: "web" } };
  const adHoc = { job_id: null, labels: { team: "web" } };
  const may = (permissions: Record<string, string[]>) => {
    me.value = { ...ADA, permissions } as unknown as Me;
    return [mayLaunch(), mayLaunchAgain(job), mayLaunchAgain(adHoc)];
  };
  assert.deepEqual(may({ "jobs:execute": [""] }), [true, true, false]);
  assert.deepEqual(may({ "commands:run": [""] }), [true, false, true]);
  assert.deepEqual(may({ "commands:run": ["team=db"] }), [true, false, false]);
  assert.deepEqual(may({ "jobs:read": [""] }), [false, false, false]);
  // The form of commands shows targets; a retry shows none.
  const forms = (permissions: Record<string, string[]>) => {
    may(permissions);
    return [mayRunAgain(job), mayRunAgain(adHoc)];
  };
  assert.deepEqual(forms({ "jobs:execute": [""], "commands:run": [""] }), [true, false]);
  assert.deepEqual(forms({ "commands:run": [""], "targets:read": ["env=dev"] }), [false, true]);
  const launch = ROUTES.find(({ pattern }) => pattern === "/launch")!;
  may({ "commands:run": [""] });
  assert.equal(mayOpen(launch), true);
  may({ "jobs:read": [""] });
  assert.equal(mayOpen(launch), false);
});
