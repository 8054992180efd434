import assert from "node:assert/strict";
import { test } from "node:test";
import { Resource } from "../src/state/resource.ts";

test("what is loaded again and again is loaded once more when it ends, and keeps its data", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  Object.assign(globalThis, { document: Object.assign(new EventTarget(), { hidden: false }) });
  let asked = 0;
  const done = () => new Promise<void>((resolve) => setImmediate(resolve));
  const resource = new Resource(async () => ++asked, 15);
  resource.start();
  await done();
  context.mock.timers.tick(15_000);
  await done();
  assert.equal(resource.data.value, 2);
  resource.setPeriod(15);
  assert.equal(asked, 2, "the same period loads nothing");
  resource.setPeriod(null);
  assert.equal(resource.data.value, 2, "the data stays while it is loaded");
  await done();
  context.mock.timers.tick(60_000);
  await done();
  assert.equal(resource.data.value, 3);
  resource.stop();
});
