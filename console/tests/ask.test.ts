import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, attempt, RequestError } from "../src/api/ask.ts";
import { GIVE_UP_MS, SLOW_MS, slowReads } from "../src/api/awaited.ts";
import { errorOf } from "../src/api/problem.ts";
import { Resource } from "../src/state/resource.ts";

Object.assign(globalThis, {
  document: Object.assign(new EventTarget(), { hidden: false }),
});

const isTemporary = (failed: unknown) => failed instanceof RequestError && failed.isTemporary;

function answers(answer: (request: RequestInit) => Promise<Response>): void {
  Object.assign(globalThis, { fetch: (_: string, request: RequestInit) => answer(request) });
}

/** A response whose connection breaks before its end. */
function broken(): Response {
  const body = new ReadableStream({
    start(stream) {
      stream.enqueue(new TextEncoder().encode('{"items": ['));
      stream.error(new TypeError("network error"));
    },
  });
  return new Response(body);
}

test("an answer that breaks off is tried again", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let asked = 0;
  answers(async () => (++asked === 1 ? broken() : Response.json({ items: [] })));
  const resource = new Resource(() => ask("GET /jobs"));
  const settled = () => new Promise<void>((done) => setImmediate(done));
  resource.start();
  while (resource.error.value === null) await settled();
  assert.ok(isTemporary(resource.error.value));
  context.mock.timers.tick(5_000);
  while (resource.data.value === null) await settled();
  assert.equal(resource.error.value, null);
  resource.stop();
});

test("a read without an answer is said to be slow, and is given up", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  answers(
    ({ signal }) =>
      new Promise((_, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason as Error));
      }),
  );
  const failed = assert.rejects(attempt("/api/v1/jobs", {}), isTemporary);
  context.mock.timers.tick(SLOW_MS);
  assert.equal(slowReads.value, 1);
  context.mock.timers.tick(GIVE_UP_MS);
  await failed;
  assert.equal(slowReads.value, 0);
  const given = new AbortController();
  const aborted = assert.rejects(attempt("/api/v1/jobs", { signal: given.signal }), {
    name: "AbortError",
  });
  given.abort();
  await aborted;
  // A change may take its time: it is not sent twice.
  void attempt("/api/v1/jobs", { method: "POST" });
  context.mock.timers.tick(GIVE_UP_MS);
  assert.equal(slowReads.value, 0);
});

test("an outage behind a proxy passes, and fields of the API are said as the console's buttons", async () => {
  for (const status of [502, 503, 504])
    assert.ok((await errorOf(new Response("", { status }))).isTemporary);
  const detail = "Change it, or pass override_safety: true and a reason, which takes x.";
  const refused = await errorOf(Response.json({ detail }, { status: 422 }));
  assert.equal(refused.message, "Change it, or override the check with a reason, which takes x.");
});
