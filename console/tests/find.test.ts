import assert from "node:assert/strict";
import { test } from "node:test";
import { FoundLines, formatRange, JsonLines, parseRange } from "../src/log/find.ts";

function foundAt(...numbers: number[]): FoundLines {
  const found = new FoundLines();
  for (const line of numbers)
    found.add({ line, target: "web-1", target_run: line % 2, stream: "stdout", text: "x" });
  return found;
}

test("the next match and the one before it go around the ends", () => {
  const found = foundAt(10, 30, 20, 30);
  assert.deepEqual(found.numbers, [10, 20, 30]);
  assert.deepEqual(
    [found.next(0), found.next(10), found.next(15), found.next(30)],
    [10, 20, 20, 10],
  );
  const back = [10, 15, 20, 99, 1].map((line) => found.next(line, true));
  assert.deepEqual(back, [30, 10, 10, 30, 30]);
  assert.equal(found.upTo(20), 2);
  assert.ok(found.has(20) && !found.has(21));
  assert.equal(foundAt().next(5), null);
});

test("targets are counted, also for lines without a number", () => {
  const found = foundAt(1, 2, 3);
  found.add({ line: null, target: "web-9", target_run: 9, stream: "stderr", text: "y" });
  assert.equal(found.count, 4);
  assert.deepEqual(
    [...found.targets.values()].map((one) => [one.run, one.lines]),
    [
      [1, 2],
      [0, 1],
      [9, 1],
    ],
  );
});

test("ndjson comes in any pieces", () => {
  const lines = new JsonLines();
  const found = ['{"a":', "1}\n", '{"a":2}\n{"a', '":3}\n'].flatMap((piece) => lines.feed(piece));
  assert.deepEqual(found, [{ a: 1 }, { a: 2 }, { a: 3 }]);
});

test("a range of lines survives the address", () => {
  for (const range of [
    [1, 1],
    [120, 140],
  ] as const)
    assert.deepEqual(parseRange(formatRange(range)), range);
  assert.deepEqual(parseRange("#L140-120"), [120, 140]);
  for (const other of ["", "#L0", "#L", "#code=x", "#L1-", "#L1234567890123"])
    assert.equal(parseRange(other), null);
});
