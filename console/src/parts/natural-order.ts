/** The order of names in which numbers count by their value: web-2 before web-10. */

const DIGITS = 10;
const FIRST = 8;

/** Return a text for a name, to be compared instead: a collator would take ten times as long. */
export function naturalKey(name: string): string {
  return name.replace(/\d+/g, (digits) => digits.padStart(DIGITS, "0"));
}

/** Return the items in the order of their names. */
export function inNameOrder<T>(items: readonly T[], nameOf: (item: T) => string): T[] {
  return items
    .map((item) => ({ item, key: naturalKey(nameOf(item)) }))
    .sort((a, b) => compareKeys(a.key, b.key))
    .map(({ item }) => item);
}

/** Return the first names: `web-1, web-2, …`; `total` if there are more than are known. */
export function firstNames(names: readonly string[], total = names.length): string {
  const shown = inNameOrder(names, (name) => name).slice(0, FIRST);
  return shown.join(", ") + (total > shown.length ? ", …" : "");
}

export const compareKeys = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
