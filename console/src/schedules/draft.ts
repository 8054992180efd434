/** The fields of a schedule's form, as typed, and the draft that they make. */
import type { Schedule, ScheduleDraft } from "../api/types.ts";
import { numberOr } from "../parts/counts.ts";
import type { Weekday } from "../parts/weekdays.tsx";

/** How a schedule says when: each has fields of its own. */
export const KINDS = {
  daily: "every day",
  weekly: "every week",
  monthly: "every month",
  hours: "every few hours",
  minutes: "every few minutes",
  cron: "by a cron expression",
  once: "once",
} as const;
export type Kind = keyof typeof KINDS;

export interface ScheduleFields {
  kind: Kind;
  name: string;
  cron: string;
  interval: string;
  time: string;
  weekdays: readonly Weekday[];
  day: string;
  /** A time on the clock of the zone, or an instant with its offset. */
  at: string;
  timezone: string;
  misfire: NonNullable<ScheduleDraft["misfire"]>;
  misfireWindow: string;
  overlap: NonNullable<ScheduleDraft["overlap"]>;
  calendars: readonly string[];
  jitter: string;
  startAt: string;
  endAt: string;
  maxFirings: string;
  enabled: boolean;
}

/** Return the fields of a new schedule: every night. */
export function newFields(timezone: string): ScheduleFields {
  return {
    kind: "daily",
    name: "",
    cron: "",
    interval: "1",
    time: "02:30",
    weekdays: [],
    day: "1",
    at: "",
    timezone,
    misfire: "run_once",
    misfireWindow: "1h",
    overlap: "skip",
    calendars: [],
    jitter: "",
    startAt: "",
    endAt: "",
    maxFirings: "",
    enabled: true,
  };
}

/** Return the fields of a stored schedule. */
export function fieldsOf(schedule: Schedule): ScheduleFields {
  const fresh = newFields(schedule.timezone ?? "UTC");
  return {
    ...fresh,
    kind: schedule.type === "recurring" ? (schedule.every as Kind) : schedule.type,
    name: schedule.name,
    cron: schedule.cron ?? "",
    interval: String(schedule.interval ?? 1),
    time: schedule.time ?? fresh.time,
    weekdays: schedule.weekdays ?? [],
    day: String(schedule.day ?? fresh.day),
    at: schedule.at ?? schedule.local_time ?? "",
    misfire: schedule.misfire,
    misfireWindow: String(schedule.misfire_window),
    overlap: schedule.overlap,
    calendars: schedule.calendars,
    jitter: String(schedule.jitter) === "0s" ? "" : String(schedule.jitter),
    startAt: schedule.start_at ?? "",
    endAt: schedule.end_at ?? "",
    maxFirings: schedule.max_firings === null ? "" : String(schedule.max_firings),
    enabled: schedule.enabled,
  };
}

/** Which fields say when, by the kind. */
export const FIELDS_OF: Record<Kind, readonly (keyof ScheduleFields)[]> = {
  daily: ["time", "interval"],
  weekly: ["weekdays", "time", "interval"],
  monthly: ["day", "time", "interval"],
  hours: ["interval"],
  minutes: ["interval"],
  cron: ["cron"],
  once: ["at"],
};

/** True if it says when, so that it is worth asking for the due times. */
export function saysWhen(fields: ScheduleFields): boolean {
  return FIELDS_OF[fields.kind].every((name) => String(fields[name]).trim() !== "");
}

/**
 * Return the draft that the fields make.
 *
 * `stored`: the schedule that it replaces; what the form does not show stays as it is there.
 */
export function draftOf(
  fields: ScheduleFields,
  parameters: Record<string, unknown>,
  stored: Schedule | null,
): ScheduleDraft {
  const draft: Record<string, unknown> = {
    ...when(fields),
    timezone: fields.timezone.trim() || null,
    misfire: fields.misfire,
    misfire_window: fields.misfireWindow.trim() || "0s",
    overlap: fields.overlap,
    calendars: fields.calendars,
    jitter: fields.jitter.trim() || "0s",
    start_at: fields.startAt.trim() || null,
    end_at: fields.endAt.trim() || null,
    max_firings: fields.maxFirings.trim() ? numberOr(fields.maxFirings) : null,
    enabled: fields.enabled,
    parameters,
  };
  // Without a name it gets one that says when.
  if (fields.name.trim()) draft["name"] = fields.name.trim();
  if (stored) {
    draft["notify"] = stored.notify;
    draft["dst_gap"] = stored.dst_gap;
    if (fields.kind !== "once") draft["dst_fold"] = stored.dst_fold;
    if (stored.type === "recurring" && stored.every === fields.kind)
      draft["anchor"] = stored.anchor;
  }
  return draft as unknown as ScheduleDraft;
}

function when(fields: ScheduleFields): Record<string, unknown> {
  if (fields.kind === "cron") return { type: "cron", cron: fields.cron.trim() };
  if (fields.kind === "once") return { type: "once", at: fields.at.trim() };
  const draft: Record<string, unknown> = { type: "recurring", every: fields.kind };
  for (const name of FIELDS_OF[fields.kind]) draft[name] = typedValue(fields, name);
  return draft;
}

function typedValue(fields: ScheduleFields, name: keyof ScheduleFields): unknown {
  if (name === "interval" || name === "day") return numberOr(fields[name]);
  return name === "time" ? fields.time.trim() : fields[name];
}
