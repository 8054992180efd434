import assert from "node:assert/strict";
import { test } from "node:test";
import { cellAt, cellSize, edge, layOut, moved } from "../src/matrix/layout.ts";

const range = (first: number, count: number) => Array.from({ length: count }, (_, n) => first + n);
const GROUPS = [
  { label: "failed", rows: range(0, 7) },
  { label: "lost", rows: [] },
  { label: "ok", rows: range(7, 5) },
];

test("each cell is found where it lies, and nothing between cells", () => {
  const layout = layOut(GROUPS, 12, 57); // 18 px and a gap: three columns
  assert.equal(layout.columns, 3);
  for (let position = 0; position < 12; position++) {
    const { x, y } = edge(layout, position);
    assert.equal(cellAt(layout, x + 2, y + 2), position);
  }
  assert.equal(cellAt(layout, 2, 1), -1); // the heading
  assert.equal(cellAt(layout, 40, layout.sections[0]!.top + 2 * 19 + 2), -1); // behind the last
  assert.equal(cellAt(layout, 400, 60), -1);
  assert.deepEqual([...layout.place], range(0, 12));
});

test("ten thousand cells have a position each and stay within the width", () => {
  const rows = range(0, 10_000).reverse();
  const layout = layOut([{ label: "", rows }], 10_000, 1_200);
  assert.equal(layout.size, cellSize(10_000, 1_200));
  for (const position of [0, 133, 134, 5_000, 9_999]) {
    const { x, y } = edge(layout, position);
    assert.ok(x + layout.size <= 1_200 && y + layout.size <= layout.height);
    assert.equal(layout.order[layout.place[rows[position]!]!], rows[position]);
  }
});

test("arrow keys move as the eye does, across sections too", () => {
  const layout = layOut(GROUPS, 12, 57);
  assert.equal(moved(layout, 0, "right"), 1);
  assert.equal(moved(layout, 1, "down"), 4);
  assert.equal(moved(layout, 4, "down"), 6); // the last row is short: to its end
  assert.equal(moved(layout, 6, "down"), 7);
  assert.equal(moved(layout, 8, "up"), 6);
  assert.equal(moved(layout, 0, "up"), 0);
  assert.equal(moved(layout, 11, "right"), 11);
  assert.equal(moved(layout, 3, "section-on"), 7);
  assert.equal(moved(layout, 9, "section-back"), 7);
  assert.equal(moved(layout, 7, "section-back"), 0);
  assert.equal(moved(layout, 3, "last"), 11);
  assert.equal(moved(layout, -1, "down"), 0);
  assert.equal(moved(layOut([], 0, 100), -1, "down"), -1);
});

test("every cell can be reached by keys, and no key leads outside", () => {
  const layout = layOut(GROUPS, 12, 57);
  const seen = new Set([0]);
  const open = [0];
  while (open.length > 0) {
    const at = open.pop()!;
    for (const move of ["left", "right", "up", "down", "section-back", "section-on"] as const) {
      const next = moved(layout, at, move);
      assert.ok(next >= 0 && next < 12);
      if (!seen.has(next)) open.push(next);
      seen.add(next);
    }
  }
  assert.equal(seen.size, 12);
});
