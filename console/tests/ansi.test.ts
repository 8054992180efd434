import assert from "node:assert/strict";
import { test } from "node:test";
import { pieces, plainText } from "../src/log/ansi.ts";

const look = (line: string) => pieces(line).map(({ text, look }) => [text, look]);

test("colours and weight become classes", () => {
  assert.deepEqual(look("plain"), [["plain", ""]]);
  assert.deepEqual(look("\x1b[1;31mE:\x1b[0m no \x1b[92mok\x1b[39m."), [
    ["E:", "ansi-1 ansi-bold"],
    [" no ", ""],
    ["ok", "ansi-10"],
    [".", ""],
  ]);
  assert.deepEqual(look("\x1b[4;7;44mx\x1b[24;27my"), [
    ["x", "ansi-on4 ansi-underline ansi-inverse"],
    ["y", "ansi-on4"],
  ]);
});

test("256 colours and true colours become the nearest of 16", () => {
  for (const [codes, class_] of [
    ["38;5;9", "ansi-9"],
    ["38;5;196", "ansi-9"],
    ["38;5;244", "ansi-8"],
    ["38;2;0;255;0", "ansi-10"],
    ["38:2:0:0:180", "ansi-4"],
    ["48;5;21", "ansi-on12"],
  ])
    assert.deepEqual(look(`\x1b[${codes}mx`), [["x", class_]], codes);
});

test("a line is shown as it stands at the end", () => {
  assert.equal(plainText("10%\r 55%\r100%"), "100%");
  assert.equal(plainText("abcdef\rXY"), "XYcdef");
  assert.equal(plainText("downloading\r\x1b[Kdone"), "done");
  assert.equal(plainText("\x1b[2Kx\x1b[2Ky"), "y");
  assert.equal(plainText("ab\bc"), "ac");
});

test("nothing but looks passes: no link, title, cursor or device control", () => {
  for (const [line, text] of [
    ["\x1b]8;;https://evil.example/\x07click\x1b]8;;\x07", "click"],
    ["\x1b]8;;https://evil.example/\x1b\\click\x1b]8;;\x1b\\", "click"],
    ["\x1b]0;title\x07a", "a"],
    ["a\x1b[2J\x1b[1;1H\x1b[?25lb", "ab"],
    ["\x1bP1$r0m\x1b\\a\x1b_x\x1b\\b", "ab"],
    ["\x1b]52;c;cm0gLXJm", ""],
    ["\x1bca\x1b", "a"],
    ["\x00\x07<b>\x7f", "<b>"],
  ])
    assert.equal(plainText(line!), text);
});

test("a hostile line of 16 KiB takes no longer than its length", () => {
  for (const line of ["\x1b[".repeat(8_192), "\x1b]".repeat(8_192), "\r".repeat(16_384)])
    assert.ok(plainText(line).length <= line.length);
  const deep = pieces("\x1b[1m\x1b[31mx".repeat(2_000));
  assert.equal(deep.length, 1);
});
