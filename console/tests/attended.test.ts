import assert from "node:assert/strict";
import { test } from "node:test";
import { attempt } from "../src/api/ask.ts";
import { watchUse } from "../src/api/attended.ts";

test("requests say when nobody has used the page for a minute", async (context) => {
  context.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const sent: Headers[] = [];
  const page = new EventTarget();
  Object.assign(globalThis, {
    fetch: async (_: string, request: RequestInit) => {
      sent.push(new Headers(request.headers));
      return new Response();
    },
  });
  watchUse(page);
  const isMarked = async () => {
    await attempt("/api/v1/jobs", { headers: { Accept: "application/json" } });
    assert.equal(sent.at(-1)?.get("Accept"), "application/json");
    return sent.at(-1)?.get("Opsjobs-Unattended") === "true";
  };
  assert.equal(await isMarked(), false, "the page was just opened");
  context.mock.timers.tick(60_000);
  assert.equal(await isMarked(), true);
  for (const sign of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
    page.dispatchEvent(new Event(sign));
    assert.equal(await isMarked(), false, sign);
    context.mock.timers.tick(59_999);
    assert.equal(await isMarked(), false);
    context.mock.timers.tick(1);
    assert.equal(await isMarked(), true);
  }
});
