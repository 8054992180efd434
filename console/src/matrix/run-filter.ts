/** Filters of runs, written as words: `status:failed status:lost rack:r7 -name:db web`. */

export interface Term {
  /** A field such as `status`, the key of a label, or "" for a part of the name. */
  readonly key: string;
  readonly value: string;
  readonly not: boolean;
}

/** Terms of one field: any of them fits. Different fields, and those with `-`: all have to fit. */
export type RunFilter = readonly Term[];
export const NO_FILTER: RunFilter = [];

const TOKEN = /(-?)(?:([A-Za-z][\w./-]*):)?(?:"((?:[^"\\]|\\.)*)"|(\S+))/g;
const PLAIN = /^[^\s":\\-][^\s":\\]*$/;

/** Read a filter. Anything can be read: a word without a field is a part of a name. */
export function parseRunFilter(text: string): RunFilter {
  const terms: Term[] = [];
  for (const [, sign, key = "", quoted, plain] of text.matchAll(TOKEN)) {
    const value = quoted === undefined ? plain! : quoted.replace(/\\(.)/g, "$1");
    if (value !== "") terms.push({ key, value, not: sign === "-" });
  }
  return terms;
}

/** Write a filter so that `parseRunFilter` reads the same. */
export function formatRunFilter(filter: RunFilter): string {
  return filter.map(formatTerm).join(" ");
}

export function formatTerm({ key, value, not }: Term): string {
  const quoted = PLAIN.test(value) ? value : `"${value.replaceAll(/["\\]/g, "\\$&")}"`;
  return `${not ? "-" : ""}${key ? `${key}:` : ""}${quoted}`;
}

/** The values that the filter asks for in a field; empty if it does not mention the field. */
export function valuesOf(filter: RunFilter, key: string): string[] {
  return filter.filter((term) => term.key === key && !term.not).map((term) => term.value);
}

/** Add a value to a field of the filter, or take it away. */
export function toggled(filter: RunFilter, key: string, value: string): RunFilter {
  const kept = filter.filter((term) => term.key !== key || term.not || term.value !== value);
  return kept.length < filter.length ? kept : [...filter, { key, value, not: false }];
}
