import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import type { RequestError } from "../src/api/problem.ts";
import { follow } from "../src/api/stream.ts";

/** What of a document the stream needs. */
class Page extends EventTarget {
  hidden = false;

  hide(hidden: boolean): void {
    this.hidden = hidden;
    this.dispatchEvent(new Event("visibilitychange"));
  }
}

const page = new Page();
Object.assign(globalThis, { document: page });

async function served(answer: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { url: `http://127.0.0.1:${port}/`, close };
}

test("a stream that breaks goes on at its place, and ends when its events are deleted", async () => {
  const places: (string | undefined)[] = [];
  const answers = [
    (response: ServerResponse) => response.end("id: 1\ndata: a\n\nid: 2\nevent: x\ndata: b\n\n"),
    (response: ServerResponse) => response.end("id: 3\ndata: c\n\n"),
    (response: ServerResponse) => {
      response.writeHead(410, { "Content-Type": "application/problem+json" });
      response.end(JSON.stringify({ detail: "Deleted.", code: "events_deleted", status: 410 }));
    },
  ];
  const server = await served((request, response) => {
    places.push(request.headers["last-event-id"] as string | undefined);
    answers[places.length - 1]!(response);
  });
  const events: string[] = [];
  const error = await new Promise<RequestError>((resolve) => {
    follow({
      url: server.url,
      onEvent: (event) => events.push(`${event.id} ${event.event ?? ""} ${event.data}`),
      onEnd: resolve,
    });
  });
  server.close();
  assert.deepEqual(places, [undefined, "2", "3"]);
  assert.deepEqual(events, ["1  a", "2 x b", "3  c"]);
  assert.equal(error.code, "events_deleted");
});

test("a stream rests while the tab is hidden, and begins at the place that was asked for", async () => {
  const places: (string | undefined)[] = [];
  let closed = () => {};
  const ended = new Promise<void>((resolve) => {
    closed = resolve;
  });
  const server = await served((request, response) => {
    places.push(request.headers["last-event-id"] as string | undefined);
    response.write(`id: ${places.length}\ndata: x\n\n`);
    response.on("close", closed);
  });
  let told = () => {};
  const next = () =>
    new Promise<void>((resolve) => {
      told = resolve;
    });
  const first = next();
  const stop = follow({ url: server.url, after: "7", onEvent: () => told() });
  await first;
  page.hide(true);
  await ended;
  assert.deepEqual(places, ["7"]);
  const second = next();
  page.hide(false);
  await second;
  assert.deepEqual(places, ["7", "1"]);
  stop();
  server.close();
});

test("a stream that breaks before its first event goes on where it began", async () => {
  const places: (string | undefined)[] = [];
  const server = await served((request, response) => {
    places.push(request.headers["last-event-id"] as string | undefined);
    response.end(places.length === 1 ? ": connected\nid: 7-1\n\n" : "id: 8-1\ndata: a\n\n");
  });
  let stop = () => {};
  await new Promise<void>((done) => {
    stop = follow({ url: server.url, onEvent: () => done() });
  });
  stop();
  server.close();
  assert.deepEqual(places, [undefined, "7-1"]);
});
