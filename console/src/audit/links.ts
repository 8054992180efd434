/** Where the thing of an audit row is shown. */
import type { AuditEntry } from "../api/types.ts";

const PLACES: Record<string, string> = {
  approval: "/approvals/",
  credential: "/credentials?show=",
  execution: "/executions/",
  job: "/jobs/",
  schedule: "/schedules/",
};

/** Return the path of the thing; null if the console has no page for it. */
export function placeOf({ thing, thing_id: id, thing_name: name }: AuditEntry): string | null {
  if (thing === "target" && name) return `/targets/${encodeURIComponent(name)}`;
  const place = PLACES[thing];
  return place && id ? place + encodeURIComponent(id) : null;
}

export interface Change {
  field: string;
  before: string;
  after: string;
}

/** Return what a row changed, field by field: those that differ, or all of what is new or gone. */
export function changesOf({ before, after }: Pick<AuditEntry, "before" | "after">): Change[] {
  const [old, now] = [fieldsOf(before), fieldsOf(after)];
  const names = [...new Set([...Object.keys(old), ...Object.keys(now)])].sort();
  return names
    .map((field) => ({ field, before: textOf(old[field]), after: textOf(now[field]) }))
    .filter((change) => change.before !== change.after);
}

function fieldsOf(value: unknown): Record<string, unknown> {
  if (value === null || value === undefined) return {};
  if (typeof value === "object" && !Array.isArray(value)) return value as Record<string, unknown>;
  return { value };
}

function textOf(value: unknown): string {
  if (value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}
