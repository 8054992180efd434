/** Rows of the differences of two outputs, as a page shows them. */

export interface DiffRow {
  readonly kind: "same" | "less" | "more" | "skipped";
  /** The line's number on each side; null: it is not there. */
  readonly left: number | null;
  readonly right: number | null;
  readonly text: string;
}

/** Put what went and what came side by side. */
export function sideBySide(
  rows: readonly DiffRow[],
): (readonly [DiffRow | null, DiffRow | null])[] {
  const pairs: (readonly [DiffRow | null, DiffRow | null])[] = [];
  for (let at = 0; at < rows.length; ) {
    const row = rows[at]!;
    if (row.kind === "same" || row.kind === "skipped") {
      pairs.push([row, row]);
      at += 1;
      continue;
    }
    const stretch: DiffRow[] = [];
    while (at < rows.length && ["less", "more"].includes(rows[at]!.kind)) stretch.push(rows[at++]!);
    const less = stretch.filter((one) => one.kind === "less");
    const more = stretch.filter((one) => one.kind === "more");
    for (let n = 0; n < Math.max(less.length, more.length); n++)
      pairs.push([less[n] ?? null, more[n] ?? null]);
  }
  return pairs;
}
