/** Which rows of the matrix a filter matches, in which order, and in which groups. */

import { compareKeys, naturalKey } from "../parts/natural-order.ts";
import { TONES, wordsOf } from "../parts/tone.ts";
import { type Filter, formatTerm, type Term } from "../state/filter.ts";
import type { Group } from "./layout.ts";
import type { Runs } from "./runs.ts";
import { RUN_STATUSES, TONE_OF } from "./states.ts";

/** The values of a label by row; null for a target without it. */
export type LabelColumn = readonly (string | null)[];
export type Labels = Readonly<Record<string, LabelColumn>>;

type Test = (row: number) => boolean;

/** The fields of a run that a filter can name; any other name is a label. */
export const FIELDS: readonly string[] = [
  ...["status", "name", "wave", "exit", "error", "took", "waits", "proof", "attempt"],
];

/** The keys of labels that the filter needs. */
export function labelsOf(filter: Filter): string[] {
  const keys = filter.map((term) => term.key).filter((key) => key && !FIELDS.includes(key));
  return [...new Set(keys)];
}

/** Return the test of a filter: any value of each field, and none of those with `-`. */
export function matcher(filter: Filter, runs: Runs, labels: Labels = {}): Test {
  const wanted = new Map<string, Test[]>();
  const tests: Test[] = [];
  for (const term of filter) {
    const test = testOf(term, runs, labels);
    if (term.not) tests.push((row) => !test(row));
    else if (term.key === "") tests.push(test);
    else wanted.set(term.key, [...(wanted.get(term.key) ?? []), test]);
  }
  for (const any of wanted.values()) tests.push((row) => any.some((test) => test(row)));
  return (row) => tests.every((test) => test(row));
}

/** The rows that match, in the order of launch. */
export function matching(filter: Filter, runs: Runs, labels: Labels = {}): Uint32Array {
  const test = matcher(filter, runs, labels);
  const rows = new Uint32Array(runs.count);
  let found = 0;
  for (let row = 0; row < runs.count; row++) if (test(row)) rows[found++] = row;
  return rows.slice(0, found);
}

function testOf(term: Term, runs: Runs, labels: Labels): Test {
  const wanted = new Set(term.values);
  switch (term.key) {
    case "":
    case "name": {
      const parts = term.values.map((value) => value.toLowerCase());
      return (row) => {
        const name = runs.name[row]!.toLowerCase();
        return parts.some((part) => name.includes(part));
      };
    }
    case "status": {
      const indexes = new Set(term.values.map((v) => RUN_STATUSES.indexOf(v as "failed")));
      return (row) => indexes.has(runs.status[row]!);
    }
    case "wave":
      return (row) => wanted.has(String(runs.wave[row]! + 1));
    case "exit":
      return (row) => wanted.has(String(runs.exitCode[row] ?? "none"));
    case "error":
      return (row) => wanted.has(runs.errorCode[row] ?? "none");
    case "took": {
      const spans = term.values.map(spanOf);
      return (row) => {
        const ms = runs.tookMs(row, Number.NaN);
        return spans.some(([from, to]) => ms >= from && ms < to);
      };
    }
    case "waits":
      return (row) => wanted.has(runs.waitingFor[row] ?? "none");
    case "proof":
      return (row) => wanted.has(runs.proof[row] ?? "none");
    case "attempt":
      return (row) => wanted.has(String(runs.attempt[row]!));
    default: {
      const column = labels[term.key];
      return (row) => wanted.has(column?.[row] ?? "none");
    }
  }
}

/** The sentence of an empty table: which words to drop so that rows match again. */
export function tooNarrow(filter: Filter, runs: Runs, labels: Labels = {}): string[] {
  return filter
    .filter(
      (term) =>
        matching(
          filter.filter((other) => other !== term),
          runs,
          labels,
        ).length > 0,
    )
    .map(formatTerm);
}

export type SortKey = "name" | "status" | "wave" | "exit" | "error" | "began" | "took" | "launch";

/** The place of each state if the worst come first. */
const SEVERITY: readonly number[] = TONE_OF.map((tone, status) => {
  return TONES.indexOf(tone) * RUN_STATUSES.length + status;
});

const NATURAL = new Intl.Collator("en", { numeric: true });
const orders = new WeakMap<readonly string[], Uint32Array>();

/** All rows in the order of their names, with web-2 before web-10; computed once for the names. */
export function nameOrder({ name: names }: Runs): Uint32Array {
  let order = orders.get(names);
  if (!order) {
    const keys = names.map(naturalKey);
    order = Uint32Array.from(names.keys());
    order.sort((a, b) => compareKeys(keys[a]!, keys[b]!) || a - b);
    orders.set(names, order);
  }
  return order;
}

/** Some rows in the order of their names, without comparing these again. */
function named(rows: Uint32Array, runs: Runs): Uint32Array {
  const order = nameOrder(runs);
  if (rows.length === runs.count) return order;
  const wanted = new Uint8Array(runs.count);
  for (const row of rows) wanted[row] = 1;
  return order.filter((row) => wanted[row] === 1);
}

/** Sort rows; equal ones stay in the order of their names, and rows without a value come last. */
export function sorted(
  rows: Uint32Array,
  runs: Runs,
  key: SortKey,
  descending: boolean,
  nowMs: number,
): Uint32Array {
  if (key === "launch") return descending ? rows.toReversed() : rows;
  const inOrder = named(rows, runs);
  if (key === "name") return descending ? inOrder.toReversed() : inOrder;
  const value = sortValue(runs, key, nowMs);
  // Only the different values are compared: of 10,000 rows few differ.
  const groups = new Map<number, number[]>();
  for (const row of inOrder) {
    const of = value(row);
    const group = groups.get(of);
    if (group) group.push(row);
    else groups.set(of, [row]);
  }
  const values = Float64Array.from(groups.keys()).filter((of) => !Number.isNaN(of));
  values.sort();
  if (descending) values.reverse();
  return Uint32Array.from([...values, Number.NaN].flatMap((of) => groups.get(of) ?? []));
}

function sortValue(runs: Runs, key: SortKey, nowMs: number): (row: number) => number {
  switch (key) {
    case "status":
      return (row) => SEVERITY[runs.status[row]!]!;
    case "wave":
      return (row) => runs.wave[row]!;
    case "exit":
      return (row) => runs.exitCode[row] ?? Number.NaN;
    case "error": {
      const codes = [...new Set(runs.errorCode)].filter((c) => c !== null).sort();
      const index = new Map(codes.map((code, n) => [code, n]));
      return (row) => index.get(runs.errorCode[row]!) ?? Number.NaN;
    }
    case "began":
      return (row) => runs.startedMs[row]!;
    default:
      return (row) => runs.tookMs(row, nowMs);
  }
}

/** How cells are grouped: by nothing, or by a field, or by `label:rack`. */
export type Grouping = "name" | "status" | "wave" | `label:${string}`;

/** Group rows for the canvas. Within a group they are in the order of their names. */
export function grouped(rows: Uint32Array, runs: Runs, by: Grouping, labels: Labels = {}): Group[] {
  const inOrder = named(rows, runs);
  if (by === "name") return [{ label: "", rows: inOrder }];
  const groups = new Map<string, number[]>();
  for (const row of inOrder) {
    const key = groupKey(runs, row, by, labels);
    const group = groups.get(key);
    if (group) group.push(row);
    else groups.set(key, [row]);
  }
  return [...groups.entries()]
    .sort(([a], [b]) => NATURAL.compare(a, b))
    .map(([key, members]) => ({ label: headingOf(key, by), rows: members }));
}

function groupKey(runs: Runs, row: number, by: Grouping, labels: Labels): string {
  if (by === "status") return String(runs.status[row]!);
  if (by === "wave") return String(runs.wave[row]!);
  return labels[by.slice("label:".length)]?.[row] ?? "\uffff";
}

function headingOf(key: string, by: Grouping): string {
  if (by === "status") return wordsOf(RUN_STATUSES[Number(key)]!);
  if (by === "wave") return `wave ${Number(key) + 1}`;
  const label = by.slice("label:".length);
  return key === "\uffff" ? `no ${label}` : `${label} ${key}`;
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, min: 60_000, h: 3_600_000 };

/** The milliseconds of `5s-10s`; a span that holds nothing if it is not one. */
function spanOf(text: string): [from: number, to: number] {
  const [, from, fromUnit, to, toUnit] =
    /^([\d.]+)(ms|s|min|h)-([\d.]+)(ms|s|min|h)$/.exec(text) ?? [];
  if (from === undefined) return [1, 0];
  return [Number(from) * UNITS[fromUnit!]!, Number(to) * UNITS[toUnit!]!];
}

/** The value of `took:` for a span of durations. */
export function spanText(fromMs: number, toMs: number): string {
  return `${amountText(fromMs)}-${amountText(toMs)}`;
}

function amountText(ms: number): string {
  const [unit, size] = Object.entries(UNITS).findLast(([, size]) => ms % size === 0 && ms > 0) ?? [
    "ms",
    1,
  ];
  return `${ms / size}${unit}`;
}
