/** Lines that a search finds, and the way from one to the next. */

export interface FoundLine {
  /** Its number in the part of the output that was searched; null if it is not known. */
  readonly line: number | null;
  readonly target: string;
  readonly target_run: number;
  readonly stream: string;
  readonly text: string;
}

export interface FindSummary {
  readonly complete: boolean;
  readonly reason: string | null;
  /** Where a search that ended early goes on. */
  readonly next: number | null;
  readonly lines: number;
  readonly targets: number;
}

export interface FoundTarget {
  readonly target: string;
  readonly run: number;
  lines: number;
  readonly first: FoundLine;
}

/** What most programs write when something goes wrong. */
export const ERROR_PATTERN =
  "error|fail|fatal|panic|exception|traceback|denied|refused|cannot|can't|could not|not found|no such|timed out";

/** The lines that were found so far, in the order of their numbers. */
export class FoundLines {
  readonly numbers: number[] = [];
  readonly targets = new Map<number, FoundTarget>();
  count = 0;

  add(found: FoundLine): void {
    this.count += 1;
    const target = this.targets.get(found.target_run);
    if (target) target.lines += 1;
    else
      this.targets.set(found.target_run, {
        target: found.target,
        run: found.target_run,
        lines: 1,
        first: found,
      });
    if (found.line === null) return;
    // Lines are found when they end, so some come a little late.
    let at = this.numbers.length;
    while (at > 0 && this.numbers[at - 1]! > found.line) at -= 1;
    if (this.numbers[at - 1] !== found.line) this.numbers.splice(at, 0, found.line);
  }

  /** Return the number of found lines up to this one. */
  upTo(line: number): number {
    let low = 0;
    let high = this.numbers.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.numbers[middle]! <= line) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  has(line: number): boolean {
    return this.numbers[this.upTo(line) - 1] === line;
  }

  /** Return the next found line after one, or the one before it; around the ends. */
  next(line: number, back = false): number | null {
    if (this.numbers.length === 0) return null;
    const upTo = this.upTo(line);
    if (!back) return this.numbers[upTo] ?? this.numbers[0]!;
    const before = upTo - (this.has(line) ? 2 : 1);
    return this.numbers[before] ?? this.numbers.at(-1)!;
  }
}

/** Feed pieces of ndjson; get the objects of the lines that they complete. */
export class JsonLines {
  private held = "";

  feed(piece: string): unknown[] {
    const lines = (this.held + piece).split("\n");
    this.held = lines.pop()!;
    return lines.filter(Boolean).map((line) => JSON.parse(line) as unknown);
  }
}

/** `#L120` or `#L120-L140`, as a range of lines; null if it is none. */
export function parseRange(hash: string): readonly [number, number] | null {
  const found = /^#L([0-9]{1,12})(?:-L?([0-9]{1,12}))?$/.exec(hash);
  if (!found) return null;
  const first = Number(found[1]);
  const last = found[2] ? Number(found[2]) : first;
  return first < 1 ? null : [Math.min(first, last), Math.max(first, last)];
}

export function formatRange([first, last]: readonly [number, number]): string {
  return first === last ? `#L${first}` : `#L${first}-L${last}`;
}
