import assert from "node:assert/strict";
import { test } from "node:test";
import { bind, bindings, type KeyBinding, KeyReader, nameOf } from "../src/state/keys.ts";

const binding = (keys: string): KeyBinding => ({ keys, label: keys, group: "Go", run: () => {} });
const table = [binding("j"), binding("g j"), binding("g e"), binding("Ctrl-K")];
const event = (key: string, more = {}) => ({
  key,
  ctrlKey: false,
  metaKey: false,
  altKey: false,
  ...more,
});

test("events have the names of the table", () => {
  assert.equal(nameOf(event("j")), "j");
  assert.equal(nameOf(event("k", { ctrlKey: true })), "Ctrl-K");
  assert.equal(nameOf(event("k", { metaKey: true })), "Ctrl-K");
  assert.equal(nameOf(event("Escape")), "Esc");
  assert.equal(nameOf(event("Shift")), null);
  assert.equal(nameOf(event("j", { altKey: true })), null);
});

test("two keys in a row are one combination, unless time goes by", () => {
  const reader = new KeyReader();
  assert.equal(reader.press("g", table, 0), "wait");
  assert.equal(reader.press("j", table, 500), table[1]);
  assert.equal(reader.press("j", table, 600), table[0]);
  assert.equal(reader.press("g", table, 1_000), "wait");
  assert.equal(reader.press("j", table, 9_000), table[0]);
  assert.equal(reader.press("g", table, 10_000), "wait");
  assert.equal(reader.press("x", table, 10_100), null);
  assert.equal(reader.press("Ctrl-K", table, 10_200), table[3]);
});

test("the set that was added last wins, and can be taken away", () => {
  const [common, page] = [[binding("c")], [binding("c")]];
  const removeCommon = bind(common);
  const removePage = bind(page);
  assert.deepEqual(bindings(), page);
  removePage();
  assert.deepEqual(bindings(), common);
  removeCommon();
  assert.deepEqual(bindings(), []);
});
