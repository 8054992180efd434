/** URLs of the API, from the templates of its description. */
export const PREFIX = "/api/v1";

type Plain = string | number | boolean;
export type QueryValue = Plain | Plain[] | null | undefined;

/** Return the URL of a route: `/executions/{id}` with its parameters filled in. */
export function urlOf(
  template: string,
  path: Record<string, Plain> = {},
  query: Record<string, QueryValue> = {},
): string {
  const filled = template.replace(/\{(\w+)(?::\w+)?\}/g, (_, name: string) => {
    const value = path[name];
    if (value === undefined) throw new TypeError(`${template}: ${name} is missing`);
    return encodeURIComponent(String(value));
  });
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    const several = Array.isArray(value) ? value : [value];
    for (const one of several)
      if (one !== null && one !== undefined && one !== "") search.append(name, String(one));
  }
  const tail = search.toString();
  return PREFIX + filled + (tail && `?${tail}`);
}
