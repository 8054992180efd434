import assert from "node:assert/strict";
import { test } from "node:test";
import { expanded } from "../src/inventory/ansible-files.ts";
import { entryOf } from "../src/inventory/found.ts";
import {
  countBare,
  importOf,
  keysLeft,
  NEW_OPTIONS,
  usersOf,
  variablesOf,
} from "../src/inventory/options.ts";
import { readInventory } from "../src/inventory/read.ts";

const INI = `lonely ansible_user=ada
[web]
web[01:02].x ansible_port=2222 # front
[db]
db-a ansible_ssh_private_key_file=~/.ssh/db
[prod:children]
web
db
[prod:vars]
ansible_user=deploy
ansible_ssh_common_args='-o ProxyJump=lonely'
env=prod
`;

// What the formats mean is compared with the command line's reader: tests/cli/test_import_files.py.
test("targets that are written as such, and lines of hosts, are read", async () => {
  for (const text of [
    "- {name: a, host: b}",
    '[{"name": "a", "host": "b"}]',
    "targets:\n- {name: a, host: b}",
  ])
    assert.deepEqual((await readInventory(text)).found.map(entryOf), [{ name: "a", host: "b" }]);
  const { found } = await readInventory("web-1\nweb-2 10.0.0.6:2222 env=prod\n");
  assert.deepEqual(found.map(entryOf), [
    { name: "web-1", host: "web-1" },
    { name: "web-2", host: "10.0.0.6", port: 2222, labels: { env: "prod" } },
  ]);
  await assert.rejects(readInventory("- just text"), /entry 1 is not a target/);
  await assert.rejects(readInventory("$ANSIBLE_VAULT;1.1;AES256"), /encrypted with ansible-vault/);
  await assert.rejects(readInventory("all: {", "i.yml"), /not valid YAML/);
  assert.deepEqual(expanded("db-[a:c:2]"), ["db-a", "db-c"]);
});

test("an import has logins by user, labels of variables, and what all targets have", async () => {
  const { found } = await readInventory(INI);
  assert.deepEqual(usersOf(found), ["deploy", "ada"]);
  assert.deepEqual(variablesOf(found), ["env"]);
  const planned = (...outcomes: ("created" | "updated" | "refused")[]) =>
    outcomes.map((outcome, position) => ({ position, outcome }));
  const all = planned("created", "created", "created", "created");
  assert.equal(countBare(found, NEW_OPTIONS, all), 4);
  // Those that are there keep their login; what is refused needs none.
  assert.equal(countBare(found, NEW_OPTIONS, planned("created", "updated", "refused")), 1);
  assert.deepEqual(
    keysLeft(found, NEW_OPTIONS).map((one) => one.what),
    ["the key ~/.ssh/db of deploy"],
  );
  const options = {
    ...NEW_OPTIONS,
    credentials: { deploy: "web-key" },
    credential: "rest",
    groups: "new, web",
    labels: "site=fra",
    labelsFrom: "env",
    zone: "dmz",
    hostKeyPolicy: "accept_new" as const,
    replaceGroups: true,
  };
  assert.equal(countBare(found, options, all), 0);
  assert.deepEqual(keysLeft(found, options), []);
  const body = importOf(found, options, true);
  assert.deepEqual([body.labels, body.groups, body.dry_run], ["merge", "replace", true]);
  const shared = { zone: "dmz", host_key_policy: "accept_new" };
  assert.deepEqual(body.targets.slice(0, 2), [
    {
      ...{ name: "lonely", host: "lonely", credential: "rest", groups: ["new", "web"] },
      ...{ labels: { site: "fra" }, ...shared },
    },
    {
      ...{ name: "web01.x", host: "web01.x", port: 2222, credential: "web-key", jump: "lonely" },
      ...{ groups: ["prod", "web", "new"], labels: { env: "prod", site: "fra" }, ...shared },
    },
  ]);
});

test("what is written wrongly goes to the service as it is, which refuses it", async () => {
  const options = { ...NEW_OPTIONS, groups: "new", labels: "site=fra", credential: "rest" };
  const sent = async (text: string, given = options) =>
    importOf((await readInventory(text)).found, given, true).targets[0];
  const wrong = { name: "a", host: "b", groups: "web", labels: "env=prod", credential: 7 };
  assert.deepEqual(await sent(JSON.stringify([wrong])), wrong);
  const numbers = { name: "a", host: "b", groups: 5, labels: [1], credential: "own" };
  assert.deepEqual(await sent(JSON.stringify([numbers])), numbers);
  assert.deepEqual(await sent("- {name: a, host: b, groups: [web], labels: {env: prod}}"), {
    ...{ name: "a", host: "b", credential: "rest", groups: ["web", "new"] },
    labels: { env: "prod", site: "fra" },
  });
  const empty = { name: "a", host: "b", groups: null, labels: null };
  assert.deepEqual(await sent(JSON.stringify([empty]), NEW_OPTIONS), empty);
});

test("names that every object has are names like others", async () => {
  const { found, left } = await readInventory("name,constructor\na,b\n", "a.csv");
  assert.deepEqual(found.map(entryOf), [{ name: "a", host: "a" }]);
  assert.deepEqual(
    left.map((one) => one.what),
    ["column constructor"],
  );
  const windows = "w ansible_connection=winrm ansible_winrm_transport=constructor\n";
  const read = await readInventory(`[win]\n${windows}`);
  assert.match(read.left[0]!.reason, /authentication is constructor: only negotiate/);
  const ini = await readInventory("[web]\na ansible_user=constructor env=prod\n");
  const options = { ...NEW_OPTIONS, labelsFrom: "toString, env", credential: "rest" };
  assert.deepEqual(importOf(ini.found, options, true).targets, [
    { name: "a", host: "a", credential: "rest", groups: ["web"], labels: { env: "prod" } },
  ]);
});
