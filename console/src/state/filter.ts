/** Filters written as words: `status:failed,lost rack:r7 -name:db web-0`. */

export interface Term {
  /** A field such as `status`, the key of a label, or "" for a part of the name. */
  readonly key: string;
  readonly values: readonly string[];
  readonly not: boolean;
}

export type Filter = readonly Term[];
export const NO_FILTER: Filter = [];

const WORD = /(-?)(?:([A-Za-z][\w./-]*):)?((?:"(?:[^"\\]|\\.)*"|[^\s"])+|(?=\s|$))/gy;
const PLAIN = /^[^\s",:\\-][^\s",:\\]*$/;

/** Read a filter. Anything can be read: a word without a field is a part of a name. */
export function parseFilter(text: string): Filter {
  const terms: Term[] = [];
  WORD.lastIndex = 0;
  let at = 0;
  while (at < text.length) {
    if (/\s/.test(text[at]!)) {
      at++;
      continue;
    }
    WORD.lastIndex = at;
    const found = WORD.exec(text);
    if (!found || found[0].length === 0) {
      at++;
      continue;
    }
    at += found[0].length;
    const values = splitValues(found[3] ?? "").filter((value) => value !== "");
    const key = found[2] ?? "";
    if (values.length > 0) terms.push({ key, values, not: found[1] === "-" });
  }
  return terms;
}

/** True if a text in quotes has begun and not ended. */
export function isQuoteOpen(text: string): boolean {
  let inside = false;
  for (let n = 0; n < text.length; n++) {
    if (text[n] === "\\" && inside) n++;
    else if (text[n] === '"') inside = !inside;
  }
  return inside;
}

/** Write a filter so that `parseFilter` reads the same. */
export function formatFilter(filter: Filter): string {
  return filter.map(formatTerm).join(" ");
}

export function formatTerm({ key, values, not }: Term): string {
  const sign = not ? "-" : "";
  return `${sign}${key ? `${key}:` : ""}${values.map(quoted).join(",")}`;
}

/** The values that the filter asks for in a field; empty if it does not mention the field. */
export function valuesOf(filter: Filter, key: string): readonly string[] {
  return filter.find((term) => term.key === key && !term.not)?.values ?? [];
}

/** Add a value to a field of the filter, or take it away. */
export function toggled(filter: Filter, key: string, value: string): Filter {
  const values = valuesOf(filter, key);
  const kept = values.includes(value) ? values.filter((v) => v !== value) : [...values, value];
  return withValues(filter, key, kept);
}

/** Replace the values of a field; none: the field is dropped. */
export function withValues(filter: Filter, key: string, values: readonly string[]): Filter {
  const index = filter.findIndex((term) => term.key === key && !term.not);
  const others = filter.filter((_, n) => n !== index);
  if (values.length === 0) return others;
  const term: Term = { key, values, not: false };
  return index < 0 ? [...others, term] : others.toSpliced(index, 0, term);
}

function splitValues(text: string): string[] {
  const values: string[] = [];
  let value = "";
  let inside = false;
  for (let n = 0; n < text.length; n++) {
    const letter = text[n]!;
    if (letter === "\\" && inside && n + 1 < text.length) value += text[++n];
    else if (letter === '"') inside = !inside;
    else if (letter === "," && !inside) {
      values.push(value);
      value = "";
    } else value += letter;
  }
  return [...values, value];
}

function quoted(value: string): string {
  return PLAIN.test(value) ? value : `"${value.replaceAll(/[\\"]/g, "\\$&")}"`;
}
