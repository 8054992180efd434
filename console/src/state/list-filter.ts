/** Filters of lists: which words a list has, what they are in the API's query, completions. */
import { formatTerm, parseFilter } from "./filter.ts";

/** A word that a list can be filtered by. */
export interface FilterWord {
  word: string;
  /** The parameter of the API. */
  parameter: string;
  /** Values that are offered. */
  values?: readonly string[];
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

/** Return what a filter asks a list for: `status:failed,lost job:"patch web"`. */
export function toQuery(filter: string, words: readonly FilterWord[]): ListQuery {
  const query: Record<string, string[]> = {};
  const text: string[] = [];
  const unknown: string[] = [];
  for (const term of parseFilter(filter)) {
    const found = words.find((one) => one.word === term.key);
    if (term.key === "" && !term.not) text.push(...term.values);
    else if (!found || term.not) unknown.push(formatTerm(term));
    else {
      const given = [...(query[found.parameter] ?? []), ...term.values];
      const most = found.single ? 1 : given.length;
      query[found.parameter] = given.slice(0, most);
      if (given.length > most) unknown.push(formatTerm({ ...term, values: given.slice(most) }));
    }
  }
  for (const { parameter } of words.filter((one) => one.joined))
    if (query[parameter]) query[parameter] = [query[parameter].join(",")];
  return { query, text: text.join(" "), unknown };
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
