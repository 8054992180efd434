/** The differences of two outputs, line by line. */
import { diffArrays } from "diff";
import type { DiffRow } from "./rows.ts";

interface Change {
  readonly count: number;
  readonly added: boolean;
  readonly removed: boolean;
}

/** Beyond this number of edits two texts are shown as wholly different. */
const EDITS_MAX = 4_000;
const TIME_MS = 3_000;
const CONTEXT = 3;
// In one pass: in "Mar31" the month is no word of its own.
const VARYING =
  /\b(?:0x)?[0-9a-fA-F]*[0-9][0-9a-fA-F]*\b|[0-9]+|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b/g;

/** Leave out what differs on every machine, as `normalise` of the groups does. */
export function generalize(line: string, names: readonly string[]): string {
  let text = line;
  for (const name of names) if (name) text = text.replaceAll(name, "@");
  return text.replace(VARYING, "#").replace(/[ \t]+/g, " ");
}

/** Return the lines of a text, without an empty one at its end. */
export function linesOf(text: string): string[] {
  const lines = text.split(/\r?\n/);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

type Sides = readonly [readonly string[], readonly string[]];

/** Compare lines by their keys. The browser may draw while it goes on. */
export async function compare(
  [left, right]: Sides,
  [leftKeys, rightKeys]: Sides,
): Promise<DiffRow[]> {
  const changes = await new Promise<readonly Change[] | undefined>((done) => {
    diffArrays([...leftKeys], [...rightKeys], {
      maxEditLength: EDITS_MAX,
      timeout: TIME_MS,
      callback: (found) => done(found),
    });
  });
  const rows: DiffRow[] = [];
  let [l, r] = [0, 0];
  for (const { count, added, removed } of changes ?? wholly(left.length, right.length)) {
    for (let n = 0; n < count; n++) {
      if (removed) rows.push({ kind: "less", left: ++l, right: null, text: left[l - 1]! });
      else if (added) rows.push({ kind: "more", left: null, right: ++r, text: right[r - 1]! });
      else rows.push({ kind: "same", left: ++l, right: ++r, text: right[r - 1]! });
    }
  }
  return rows;
}

function wholly(left: number, right: number): Change[] {
  return [
    { count: left, added: false, removed: true },
    { count: right, added: true, removed: false },
  ];
}

/** Replace long stretches of equal lines by one row. */
export function folded(rows: readonly DiffRow[]): DiffRow[] {
  const near = new Set<number>();
  for (const [at, row] of rows.entries())
    if (row.kind !== "same") for (let n = at - CONTEXT; n <= at + CONTEXT; n++) near.add(n);
  const found: DiffRow[] = [];
  let skipped = 0;
  const skip = () => {
    if (skipped > 0) {
      const words = skipped === 1 ? "1 equal line" : `${skipped.toLocaleString("en")} equal lines`;
      found.push({ kind: "skipped", left: null, right: null, text: words });
    }
    skipped = 0;
  };
  for (const [at, row] of rows.entries()) {
    if (!near.has(at)) skipped += 1;
    else {
      skip();
      found.push(row);
    }
  }
  skip();
  return found;
}
