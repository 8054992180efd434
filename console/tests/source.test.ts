import assert from "node:assert/strict";
import { test } from "node:test";
import { unreachable } from "../src/api/problem.ts";
import {
  BLOCK_LINES,
  BLOCKS_MAX,
  type LineAnswer,
  LineSource,
  type OutputLine,
} from "../src/log/source.ts";

class Server {
  total: number;
  open = 0;
  asked: [number, number][] = [];
  most = Number.POSITIVE_INFINITY;

  constructor(total: number) {
    this.total = total;
  }

  readonly fetch = async (from: number, count: number): Promise<LineAnswer> => {
    this.asked.push([from, count]);
    const first = from < 0 ? Math.max(1, this.total + from + 1) : from;
    const last = Math.min(this.total, first + Math.min(count, this.most) - 1);
    const lines: OutputLine[] = [];
    for (let line = first; line <= last; line++) {
      const complete = line !== this.open;
      const text = complete ? `line ${line}` : "go";
      lines.push({
        line,
        seq: line,
        at: "",
        target: "web-1",
        stream: "stdout",
        text,
        complete,
        cut: false,
        dropped: null,
      });
    }
    return {
      from: first,
      lines,
      next: last < this.total ? last + 1 : null,
      total: this.total,
      seq: this.total,
    };
  };
}

const settled = () => new Promise((done) => setTimeout(done, 0));

async function opened(server: Server): Promise<LineSource> {
  const source = new LineSource(server.fetch);
  await source.refresh();
  return source;
}

test("the end comes first, the rest when it is seen", async () => {
  const server = new Server(100_000);
  const source = await opened(server);
  assert.equal(source.total, 100_000);
  assert.equal(source.line(70_001), undefined);
  await settled();
  assert.equal(source.line(70_001)?.text, "line 70001");
  assert.equal(source.line(70_500)?.text, "line 70500");
  assert.equal(server.asked.length, 2);
});

test("a window that ends early is gone on with", async () => {
  const server = new Server(2_000);
  const source = await opened(server);
  server.most = 120;
  for (let turn = 0; turn < 6 && !source.line(500); turn++) await settled();
  assert.equal(source.line(500)?.text, "line 500");
  assert.equal(source.line(1)?.text, "line 1");
});

test("the number of kept lines is bounded", async () => {
  const server = new Server(1_000_000);
  const source = await opened(server);
  for (let line = 1; line < 1_000_000; line += BLOCK_LINES * 20) {
    source.line(line);
    await settled();
  }
  const kept = (source as unknown as { blocks: Map<number, unknown> }).blocks;
  assert.ok(kept.size <= BLOCKS_MAX);
});

test("what is added comes with a refresh, and a line that went on, too", async () => {
  const server = new Server(3);
  server.open = 3;
  const source = await opened(server);
  assert.equal(source.line(3)?.text, "go");
  server.total = 5;
  server.open = 0;
  await source.refresh();
  assert.deepEqual(
    [source.total, source.line(3)?.text, source.line(5)?.text],
    [5, "line 3", "line 5"],
  );
});

test("a failure is told, and the block is asked for again later", async () => {
  const told: unknown[] = [];
  const source = new LineSource(() => Promise.reject(new Error("away")));
  source.onError = (failed) => told.push(failed);
  source.total = 10;
  source.line(1);
  source.line(1);
  await settled();
  source.line(1);
  assert.equal(told.length, 1);
});

test("lines that come while the end is read are read after it", async () => {
  const server = new Server(3);
  const source = new LineSource(server.fetch);
  const first = source.read();
  server.total = 5;
  assert.equal(source.read(), first, "the same reading");
  await source.refresh();
  assert.equal(source.total, 5);
  assert.equal(server.asked.length, 2);
});

test("after an outage the end is read again by itself", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const server = new Server(3);
  let isAway = true;
  const source = new LineSource(async (from, count) => {
    if (isAway) throw unreachable();
    return server.fetch(from, count);
  });
  let failures = 0;
  source.onError = () => failures++;
  await source.refresh();
  assert.deepEqual([failures, source.seq], [1, null]);
  isAway = false;
  const read = new Promise<void>((done) => {
    source.onRead = done;
  });
  context.mock.timers.tick(5_000);
  await read;
  assert.equal(source.total, 3);
  source.close();
});
