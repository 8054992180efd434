/** What differs between two versions of a job, field by field. */

export interface Change {
  /** Such as `actions.patch.command`. */
  path: string;
  /** The value as text; undefined: it was not there. */
  before?: string;
  after?: string;
}

/** Fields that differ between any two versions. */
const ALWAYS = new Set(["version", "created_at", "created_by"]);

export function changesOf(before: object, after: object): Change[] {
  const changes: Change[] = [];
  compare("", before, after, changes);
  return changes.filter(({ path }) => !ALWAYS.has(path));
}

function compare(path: string, before: unknown, after: unknown, changes: Change[]): void {
  if (JSON.stringify(before) === JSON.stringify(after)) return;
  const left = partsOf(before);
  const right = partsOf(after);
  if (left && right) {
    for (const key of new Set([...left.keys(), ...right.keys()])) {
      compare(path ? `${path}.${key}` : key, left.get(key), right.get(key), changes);
    }
    return;
  }
  const change: Change = { path };
  if (isThere(before)) change.before = textOf(before);
  if (isThere(after)) change.after = textOf(after);
  if (isThere(before) || isThere(after)) changes.push(change);
}

const isThere = (value: unknown): boolean => value !== undefined && value !== null;

/** A value as text: strings as they are, anything else as JSON. */
export const textOf = (value: unknown): string =>
  typeof value === "string" ? value : JSON.stringify(value);

/** The parts of an object, or of a list whose items have keys or names; null of anything else. */
function partsOf(value: unknown): Map<string, unknown> | null {
  if (value === null || typeof value !== "object") return null;
  if (!Array.isArray(value)) return new Map(Object.entries(value));
  const names = value.map((item) => {
    const { key, name } = (item ?? {}) as { key?: unknown; name?: unknown };
    return key ?? name;
  });
  const named = names.every((name) => typeof name === "string");
  return named ? new Map(value.map((item, n) => [names[n] as string, item])) : null;
}
