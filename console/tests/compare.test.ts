import assert from "node:assert/strict";
import { test } from "node:test";
import { compare, folded, generalize, linesOf } from "../src/diff/compare.ts";
import { sideBySide } from "../src/diff/rows.ts";

async function rowsOf(left: string, right: string, names: readonly string[] | null = null) {
  const [a, b] = [linesOf(left), linesOf(right)];
  const keys = (lines: string[]) => (names ? lines.map((one) => generalize(one, names)) : lines);
  return compare([a, b], [keys(a), keys(b)]);
}

test("lines that went and came have their numbers on each side", async () => {
  const rows = await rowsOf("a\nb\nc\n", "a\nX\nc\nd\n");
  assert.deepEqual(
    rows.map(({ kind, left, right, text }) => [kind, left, right, text]),
    [
      ["same", 1, 1, "a"],
      ["less", 2, null, "b"],
      ["more", null, 2, "X"],
      ["same", 3, 3, "c"],
      ["more", null, 4, "d"],
    ],
  );
  assert.deepEqual(
    sideBySide(rows).map(([a, b]) => [a?.text ?? null, b?.text ?? null]),
    [
      ["a", "a"],
      ["b", "X"],
      ["c", "c"],
      [null, "d"],
    ],
  );
});

test("normalised lines differ by words only", async () => {
  const left = "web-1 up 12 days, Mon 10:11\nid 0xfe01\nkernel old\n";
  const right = "web-2 up  7 days, Tue 09:00\nid 0x12\nkernel new\n";
  const rows = await rowsOf(left, right, ["web-1", "web-2"]);
  assert.deepEqual(
    rows.map((row) => row.kind),
    ["same", "same", "less", "more"],
  );
});

test("a number in a word leaves the rest of the word", () => {
  const names = ["web-1"];
  assert.equal(generalize("Mar31 31Mar Mar 31 web-1 x86_64", names), "Mar# #Mar # # @ x#_#");
});

test("long stretches of equal lines are folded", async () => {
  const lines = Array.from({ length: 100 }, (_, n) => `line ${n}`);
  const rows = folded(await rowsOf(lines.join("\n"), lines.with(50, "other").join("\n")));
  assert.equal(rows.length, 2 + 2 + 6);
  assert.equal(rows[0]!.text, "47 equal lines");
  assert.equal(folded(await rowsOf("a\n", "a\n"))[0]!.text, "1 equal line");
});

test("texts that have nothing in common are compared in bounded time", async () => {
  const text = (of: string) => Array.from({ length: 5_000 }, (_, n) => `${of} ${n}`).join("\n");
  const rows = await rowsOf(text("a"), text("b"));
  assert.equal(rows.filter((row) => row.kind === "less").length, 5_000);
  assert.equal(rows.filter((row) => row.kind === "more").length, 5_000);
});

test("an empty side is an empty side", async () => {
  assert.deepEqual(await rowsOf("", ""), []);
  assert.equal((await rowsOf("", "a")).length, 1);
});
