/** Paths and queries of the console, without a browser. */
export type QueryChange = Record<string, string | readonly string[] | null | undefined>;

/** Return the search string with some parameters changed; null and "" take one away. */
export function changedSearch(now: URLSearchParams, change: QueryChange): string {
  const next = new URLSearchParams(now);
  for (const [name, value] of Object.entries(change)) {
    next.delete(name);
    const several = Array.isArray(value) ? value : [value];
    for (const one of several) if (one) next.append(name, one);
  }
  const text = next.toString();
  return text && `?${text}`;
}

/** Return the parameters of a path that fits a pattern such as `/jobs/:id`; null if it does not. */
export function match(pattern: string, path: string): Record<string, string> | null {
  const wanted = pattern.split("/").filter(Boolean);
  const parts = path.split("/").filter(Boolean);
  if (wanted.length !== parts.length) return null;
  const found: Record<string, string> = {};
  for (const [index, part] of wanted.entries()) {
    const given = parts[index]!;
    if (part.startsWith(":")) {
      try {
        found[part.slice(1)] = decodeURIComponent(given);
      } catch {
        return null;
      }
    } else if (part !== given) return null;
  }
  return found;
}
