/** Filters of lists: which words a list has, what they are in the API's query, completions. */
import { type Clock, typedInstant } from "../parts/moment.ts";
import { formatTerm, isQuoteOpen, parseFilter } from "./filter.ts";

/** A word that a list can be filtered by. */
export interface FilterWord {
  word: string;
  /** The parameter of the API. */
  parameter: string;
  /** Values that are offered. */
  values?: readonly string[];
  /** It takes other values than those offered, too. */
  open?: boolean;
  /** What its values are, if they are no text. */
  kind?: "time" | "number";
  hint?: string;
  /** All its values are one parameter, with commas between them. */
  joined?: boolean;
  /** The API takes one value of it. */
  single?: boolean;
}

export interface ListQuery {
  /** Parameters of the API. */
  query: Record<string, string[]>;
  /** What has no word before it. */
  text: string;
  /** Words that the list does not have, negations, which no list has, and further values of `single`. */
  unknown: string[];
}

/**
 * Return what a filter asks a list for: `status:failed,lost job:"patch web"`.
 *
 * `clock`: that of times without an offset.
 */
export function toQuery(
  filter: string,
  words: readonly FilterWord[],
  clock: Clock = "local",
): ListQuery {
  const query: Record<string, string[]> = {};
  const text: string[] = [];
  const unknown: string[] = [];
  for (const term of parseFilter(filter)) {
    const found = words.find((one) => one.word === term.key);
    if (term.key === "" && !term.not) text.push(...term.values);
    else if (!found || term.not) unknown.push(formatTerm(term));
    else {
      const given = [...(query[found.parameter] ?? []), ...term.values.map(sent(found, clock))];
      const most = found.single ? 1 : given.length;
      query[found.parameter] = given.slice(0, most);
      if (given.length > most) unknown.push(formatTerm({ ...term, values: given.slice(most) }));
    }
  }
  for (const { parameter } of words.filter((one) => one.joined))
    if (query[parameter]) query[parameter] = [query[parameter].join(",")];
  return { query, text: text.join(" "), unknown };
}

/** What is sent for a value: a time with its offset. */
function sent({ kind }: FilterWord, clock: Clock): (value: string) => string {
  return (value) => (kind === "time" ? (typedInstant(value, clock) ?? value) : value);
}

/** Return what is expected of a word that is not finished; null if the filter can be sent. */
export function expectedOf(filter: string, words: readonly FilterWord[]): string | null {
  if (isQuoteOpen(filter)) return 'End the text in quotes with ".';
  const [, name] = /(?:^|\s)([^\s":]+):$/.exec(filter.trimEnd()) ?? [];
  const begun = words.find((one) => one.word === name);
  if (begun) return takes(begun);
  for (const { key, values, not } of parseFilter(filter)) {
    const found = words.find((one) => one.word === key);
    if (found && !not && !values.every((value) => fits(value, found))) return takes(found);
  }
  return null;
}

function fits(value: string, { values, open, kind }: FilterWord): boolean {
  if (kind === "time") return typedInstant(value, "utc") !== null;
  if (kind === "number") return /^\d{1,18}$/.test(value);
  if (!values || values.includes(value)) return true;
  return open === true && !values.some((one) => one.startsWith(value));
}

function takes({ word, values, open, kind, hint }: FilterWord): string {
  if (kind === "time") return `${word}: takes a time, such as 2026-11-29 or 2026-11-29T08:30.`;
  if (kind === "number") return `${word}: takes a number.`;
  if (values) return `${word}: takes ${values.join(", ")}${open ? ", …" : ""}.`;
  return `${word}: takes a value${hint ? `: ${hint}` : ""}.`;
}

/** Return what completes the word at the end of the text: whole new texts. */
export function completions(filter: string, words: readonly FilterWord[]): string[] {
  const start = filter.lastIndexOf(" ") + 1;
  const before = filter.slice(0, start);
  const [name = "", value] = filter.slice(start).split(":", 2);
  if (value === undefined)
    return words.filter((one) => one.word.startsWith(name)).map((one) => `${before}${one.word}:`);
  const values = words.find((one) => one.word === name)?.values ?? [];
  return values
    .filter((one) => one.startsWith(value) && one !== value)
    .map((one) => `${before}${formatTerm({ key: name, values: [one], not: false })} `);
}
