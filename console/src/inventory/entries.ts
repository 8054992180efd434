/** Targets as lines of a text: `web-1 10.0.0.5 env=prod role=web`. */

export interface TargetEntry {
  name: string;
  host: string;
  port?: number;
  labels: Record<string, string>;
}

/** Return the targets of the lines, and the numbers of the lines that cannot be read. */
export function parseEntries(text: string): { entries: TargetEntry[]; wrong: number[] } {
  const entries: TargetEntry[] = [];
  const wrong: number[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const [name, address, ...pairs] = line.replace(/#.*/, "").trim().split(/\s+/);
    if (!name) continue;
    const labels = parseLabels(pairs.join(","));
    const [, host, port] = /^(.+?)(?::(\d{1,5}))?$/.exec(address ?? name) ?? [];
    if (labels === null || !host || address?.includes("=")) wrong.push(index + 1);
    else entries.push({ name, host, ...(port && { port: Number(port) }), labels });
  }
  return { entries, wrong };
}

/** Return labels such as `env=prod, role=web`; null if they cannot be read. */
export function parseLabels(text: string): Record<string, string> | null {
  const labels: Record<string, string> = {};
  for (const pair of text.split(/[\s,]+/).filter(Boolean)) {
    const [, key, value] = /^([^=\s]+)=([^=\s]*)$/.exec(pair) ?? [];
    if (key === undefined || value === undefined) return null;
    labels[key] = value;
  }
  return labels;
}
