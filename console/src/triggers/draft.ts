/** The fields of a trigger's form, as typed, and the draft that they make. */
import { asRead } from "../api/stale.ts";
import type { JobTriggerDraft, ParameterDraft, Trigger } from "../api/types.ts";
import { textOf, valuesOf } from "../launch/parameters.ts";
import { numberOr } from "../parts/counts.ts";

export const VERIFICATIONS = {
  bearer: "the secret as Authorization: Bearer",
  github: "a signature as GitHub makes it",
  gitlab: "the secret as X-Gitlab-Token",
  standard_webhooks: "a signature of Standard Webhooks",
} as const;
export const SOURCES = {
  none: "its default",
  pointer: "a place in the body",
  header: "a header",
  value: "always this",
} as const;
export const TESTS = {
  equals: "is",
  any_of: "is one of",
  matches: "matches the pattern",
  exists: "is there",
  missing: "is not there",
} as const;

export interface Source {
  from: keyof typeof SOURCES;
  text: string;
}

export interface Condition {
  /** A JSON Pointer such as /ref, or the name of a header. */
  place: string;
  test: keyof typeof TESTS;
  text: string;
}

export interface TriggerFields {
  name: string;
  description: string;
  verify: keyof typeof VERIFICATIONS;
  sources: Readonly<Record<string, Source>>;
  conditions: readonly Condition[];
  perMinute: string;
  expiresAt: string;
  enabled: boolean;
}

/** Return the fields of a stored trigger, or of a new one. */
export function fieldsOf(trigger: Trigger | null): TriggerFields {
  const sources = Object.entries(trigger?.parameters ?? {}).map(
    ([name, found]): [string, Source] => {
      const of = found as Record<string, never>;
      const from = (["pointer", "header", "value"] as const).find((one) => one in of) ?? "none";
      return [name, { from, text: textOf(of[from]) }];
    },
  );
  return {
    name: trigger?.name ?? "",
    description: trigger?.description ?? "",
    verify: trigger?.verify ?? "bearer",
    sources: Object.fromEntries(sources),
    conditions: (trigger?.when ?? []).map((one) => conditionOf(one as Record<string, unknown>)),
    perMinute: String(trigger?.max_calls_per_minute ?? 60),
    expiresAt: trigger?.expires_at ?? "",
    enabled: trigger?.enabled ?? true,
  };
}

function conditionOf(found: Record<string, unknown>): Condition {
  const place = String(found["header"] ?? found["pointer"] ?? "");
  if ("exists" in found) return { place, test: found["exists"] ? "exists" : "missing", text: "" };
  if ("matches" in found) return { place, test: "matches", text: String(found["matches"]) };
  if (Array.isArray(found["any_of"]))
    return { place, test: "any_of", text: found["any_of"].map(writtenInList).join(", ") };
  return { place, test: "equals", text: written(found["equals"]) };
}

/** A text that could be read as something else stands in quotes, as in JSON. */
function written(value: unknown): string {
  if (typeof value !== "string") return JSON.stringify(value);
  return typeof scalarOf(value) === "string" && value === value.trim()
    ? value
    : JSON.stringify(value);
}

/** Beside others, a text that is empty or has a comma or a quote stands in quotes, too. */
function writtenInList(value: unknown): string {
  return typeof value === "string" && /^$|[",]/.test(value)
    ? JSON.stringify(value)
    : written(value);
}

/** Return the texts between commas; one in quotes may have commas itself. */
function itemsOf(text: string): string[] {
  const found = text.match(/(?:,|^)\s*(?:"(?:[^"\\]|\\.)*"\s*(?=,|$)|[^,]*)/g) ?? [];
  return found.map((one) => one.replace(/^,/, "").trim()).filter(Boolean);
}

/** Return the value of a text: true, 3 and "3" as in JSON, anything else as it is. */
export function scalarOf(text: string): string | number | boolean {
  const typed = text.trim();
  if (/^(true|false|-?\d+(\.\d+)?|".*")$/.test(typed)) {
    try {
      return JSON.parse(typed) as string | number | boolean;
    } catch {
      return typed;
    }
  }
  return typed;
}

/** Return the draft that the fields make. `stored`: the trigger that it replaces. */
export function draftOf(
  fields: TriggerFields,
  parameters: readonly ParameterDraft[],
  stored: Trigger | null,
): JobTriggerDraft {
  const draft = {
    name: fields.name.trim(),
    description: fields.description.trim(),
    verify: fields.verify,
    parameters: Object.fromEntries(
      parameters.flatMap((parameter) => {
        const source = fields.sources[parameter.name];
        return source && source.from !== "none"
          ? [[parameter.name, sourceOf(source, parameter)]]
          : [];
      }),
    ),
    when: fields.conditions.filter((one) => one.place.trim()).map(whenOf),
    max_calls_per_minute: numberOr(fields.perMinute),
    expires_at: fields.expiresAt.trim() || null,
    enabled: fields.enabled,
    ...(stored && asRead(stored)),
  };
  return draft as unknown as JobTriggerDraft;
}

function sourceOf(source: Source, parameter: ParameterDraft): Record<string, unknown> {
  if (source.from !== "value") return { [source.from]: source.text.trim() };
  return {
    value: valuesOf({ parameters: [parameter] }, { [parameter.name]: source.text })[parameter.name],
  };
}

function whenOf(condition: Condition): Record<string, unknown> {
  const place = condition.place.trim();
  const at = place.startsWith("/") ? { pointer: place } : { header: place };
  switch (condition.test) {
    case "exists":
    case "missing":
      return { ...at, exists: condition.test === "exists" };
    case "matches":
      return { ...at, matches: condition.text };
    case "any_of":
      return { ...at, any_of: itemsOf(condition.text).map(scalarOf) };
    default:
      return { ...at, equals: scalarOf(condition.text) };
  }
}
