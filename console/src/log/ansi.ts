/**
 * A line of output in pieces of one look each, as a terminal would show it at the end.
 *
 * Colours and weight become classes. What moves within the line (`\r`, backspace, erase) is applied;
 * everything else (links, titles, cursor moves) is dropped, so that no output can reach further than
 * its own line.
 */

export interface Piece {
  readonly text: string;
  /** Classes of the look, in a fixed order; empty: plain. */
  readonly look: string;
}

const SEQUENCE =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  /\x1b(?:\[([0-?]*)[ -/]*([@-~])|\][^\x07\x1b\n]*(?:\x07|\x1b\\|$)|[PX^_][^\x1b]*(?:\x1b\\|$)|[ -/]*[0-~])?|[\x00-\x08\x0b-\x1f\x7f]/g;

interface Look {
  readonly colour: number | null;
  readonly ground: number | null;
  readonly flags: number;
}

const PLAIN: Look = { colour: null, ground: null, flags: 0 };
const FLAGS = ["bold", "dim", "italic", "underline", "inverse", "strike"] as const;
const SET: Readonly<Record<number, number>> = { 1: 1, 2: 2, 3: 4, 4: 8, 7: 16, 9: 32 };
const CLEAR: Readonly<Record<number, number>> = { 22: 3, 23: 4, 24: 8, 27: 16, 29: 32 };

/** Return the line in pieces. */
export function pieces(line: string): Piece[] {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  if (!/[\x00-\x08\x0b-\x1f\x7f]/.test(line)) return line ? [{ text: line, look: "" }] : [];
  const screen = new Screen();
  let at = 0;
  for (const found of line.matchAll(SEQUENCE)) {
    screen.write(line.slice(at, found.index));
    screen.apply(found[0], found[1] ?? "", found[2] ?? "");
    at = found.index + found[0].length;
  }
  screen.write(line.slice(at));
  return screen.pieces();
}

/** Return the text alone. */
export function plainText(line: string): string {
  return pieces(line)
    .map((piece) => piece.text)
    .join("");
}

/** One line of a terminal, without a right edge. */
class Screen {
  private readonly texts: string[] = [];
  private readonly looks: string[] = [];
  private column = 0;
  private look = PLAIN;
  private words = "";

  write(text: string): void {
    for (const character of text) {
      this.texts[this.column] = character;
      this.looks[this.column] = this.words;
      this.column += 1;
    }
  }

  apply(sequence: string, parameters: string, final: string): void {
    if (sequence === "\r") this.column = 0;
    else if (sequence === "\b") this.column = Math.max(0, this.column - 1);
    else if (final === "K") this.erase(parameters);
    else if (final === "m") {
      this.look = changed(this.look, parameters);
      this.words = words(this.look);
    }
  }

  pieces(): Piece[] {
    const found: Piece[] = [];
    let text = "";
    for (let at = 0; at < this.texts.length; at++) {
      text += this.texts[at];
      if (this.looks[at] === this.looks[at + 1]) continue;
      found.push({ text, look: this.looks[at]! });
      text = "";
    }
    return found;
  }

  private erase(parameters: string): void {
    if (parameters === "1") {
      for (let at = 0; at < Math.min(this.column, this.texts.length); at++) {
        this.texts[at] = " ";
        this.looks[at] = "";
      }
      return;
    }
    const kept = parameters === "2" ? 0 : this.column;
    this.texts.length = this.looks.length = Math.min(this.texts.length, kept);
    if (parameters === "2") this.column = 0;
  }
}

function changed(look: Look, parameters: string): Look {
  let { colour, ground, flags } = look;
  const codes = (parameters || "0").split(/[;:]/).map(Number);
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at]!;
    if (code === 0) [colour, ground, flags] = [null, null, 0];
    else if (SET[code]) flags |= SET[code];
    else if (CLEAR[code]) flags &= ~CLEAR[code];
    else if (code >= 30 && code <= 37) colour = code - 30;
    else if (code >= 90 && code <= 97) colour = code - 82;
    else if (code >= 40 && code <= 47) ground = code - 40;
    else if (code >= 100 && code <= 107) ground = code - 92;
    else if (code === 39) colour = null;
    else if (code === 49) ground = null;
    else if (code === 38 || code === 48) {
      const chosen = extended(codes, at);
      at += chosen.length;
      if (code === 38) colour = chosen.colour;
      else ground = chosen.colour;
    }
  }
  return { colour, ground, flags };
}

/** Return the nearest of the 16 colours to `38;5;n` or `38;2;r;g;b`, and how many codes it takes. */
function extended(codes: readonly number[], at: number): { colour: number | null; length: number } {
  const value = (n: number): number => codes[at + n] ?? 0;
  if (value(1) === 2) return { colour: nearest(value(2), value(3), value(4)), length: 4 };
  if (value(1) !== 5) return { colour: null, length: 1 };
  const index = value(2);
  if (index < 16) return { colour: index, length: 2 };
  if (index >= 232) {
    const grey = 8 + (index - 232) * 10;
    return { colour: nearest(grey, grey, grey), length: 2 };
  }
  const level = (n: number): number => (n ? 55 + n * 40 : 0);
  const cube = index - 16;
  const red = level(Math.floor(cube / 36));
  const green = level(Math.floor(cube / 6) % 6);
  return { colour: nearest(red, green, level(cube % 6)), length: 2 };
}

/** Return the index of a colour: a bit for each strong channel, 8 more if it is bright. */
function nearest(red: number, green: number, blue: number): number {
  const most = Math.max(red, green, blue);
  if (most < 64) return 0;
  const strong = (channel: number): number => (channel > most * 0.6 ? 1 : 0);
  const bits = strong(red) + 2 * strong(green) + 4 * strong(blue);
  if (bits === 7) return most > 220 ? 15 : most > 140 ? 7 : 8;
  return most > 200 ? bits + 8 : bits;
}

function words({ colour, ground, flags }: Look): string {
  const found = FLAGS.filter((_, bit) => flags & (1 << bit)).map((name) => `ansi-${name}`);
  if (ground !== null) found.unshift(`ansi-on${ground}`);
  if (colour !== null) found.unshift(`ansi-${colour}`);
  return found.join(" ");
}
