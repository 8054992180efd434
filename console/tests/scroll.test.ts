import assert from "node:assert/strict";
import { test } from "node:test";
import { HEIGHT_MAX, RowRange } from "../src/log/scroll.ts";

function range(total: number): RowRange {
  const made = new RowRange(18);
  made.total = total;
  made.view = 600;
  return made;
}

test("few rows scroll by pixels", () => {
  const rows = range(1_000);
  assert.equal(rows.height, 18_000);
  rows.scrolled(181);
  assert.deepEqual(rows.seen(), { first: 10, count: 35, at: 180 });
  rows.scrolled(17_400);
  assert.ok(rows.isAtEnd);
  assert.equal(rows.seen().first + rows.seen().count, 1_000);
});

test("of 100 million rows each one can be reached, and both ends", () => {
  const rows = range(100_000_000);
  assert.equal(rows.height, HEIGHT_MAX);
  for (const row of [0, 1, 777, 49_999_999, 99_999_000, 99_999_999]) {
    const scrollTop = rows.to(row);
    assert.ok(scrollTop >= 0 && scrollTop <= HEIGHT_MAX - 600);
    assert.ok(rows.shows(row), String(row));
    const { first, count, at } = rows.seen();
    assert.ok(first <= row && row < first + count);
    assert.ok(at <= scrollTop && at > scrollTop - 36);
  }
  rows.scrolled(HEIGHT_MAX - 600);
  assert.ok(rows.isAtEnd);
  rows.scrolled(0);
  assert.equal(rows.seen().first, 0);
});

test("small moves in a long log are real pixels, large ones are shares", () => {
  const rows = range(10_000_000);
  let scrollTop = rows.to(5_000_000);
  for (let step = 0; step < 10; step++) rows.scrolled((scrollTop += 18));
  assert.equal(rows.seen().first, 5_000_010);
  rows.scrolled((HEIGHT_MAX - 600) / 4);
  assert.ok(Math.abs(rows.seen().first - 2_500_000) < 100);
});

test("rows that are added leave the place as it is", () => {
  const rows = range(1_000);
  rows.to(500);
  rows.total = 100_000;
  assert.equal(rows.seen().first, 500);
  assert.equal(range(0).seen().count, 0);
});
