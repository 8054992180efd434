/** Moments and durations in words. */

/** Return a duration: `340 ms`, `4.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`. */
export function durationWords(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 60) return `${seconds} s`;
  const [minutes, hours, days] = [60, 3_600, 86_400].map((unit) => Math.floor(seconds / unit));
  if (seconds < 3_600) return two(minutes!, "min", seconds % 60, "s");
  if (seconds < 86_400) return two(hours!, "h", Math.floor((seconds % 3_600) / 60), "min");
  return two(days!, "d", Math.floor((seconds % 86_400) / 3_600), "h");
}

function two(large: number, unit: string, small: number, smallUnit: string): string {
  return small ? `${large} ${unit} ${small} ${smallUnit}` : `${large} ${unit}`;
}

/** Return how long ago or in how long: `4 min ago`, `in 2 h`, `now`. */
export function agoWords(at: Date, now: Date): string {
  const ms = now.getTime() - at.getTime();
  const far = Math.abs(ms);
  if (far < 1_000) return "now";
  const [amount, unit] =
    far < 60_000
      ? [far / 1_000, "s"]
      : far < 3_600_000
        ? [far / 60_000, "min"]
        : far < 86_400_000
          ? [far / 3_600_000, "h"]
          : [far / 86_400_000, "d"];
  const words = `${Math.floor(amount as number)} ${unit}`;
  return ms > 0 ? `${words} ago` : `in ${words}`;
}

/** Times are those of the browser's zone, or UTC; the bar of the console names it once. */
export type Clock = "local" | "utc";

/** Return the name of the zone, such as Europe/Berlin. */
export function zoneOf(clock: Clock): string {
  return clock === "utc" ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone;
}

const WRITTEN = /^\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?$/;

/** Return the instant of a date or time that somebody typed, as the API takes it; null: it is none. */
export function typedInstant(typed: string, clock: Clock): string | null {
  const found = WRITTEN.exec(typed);
  if (found === null) return null;
  const time = typed.includes("T") ? typed : `${typed}T00:00`;
  const at = new Date(found[1] || clock === "local" ? time : `${time}Z`);
  return Number.isNaN(at.getTime()) ? null : at.toISOString();
}

/** Return date and time; without the date if it is today. */
export function momentWords(at: Date, clock: Clock, now: Date = new Date()): string {
  const day = dayWords(at, clock, now);
  const sameDay = day === dayWords(now, clock, now);
  return `${sameDay ? "" : `${day} `}${timeWords(at, clock)}`;
}

/** Return a due time: with its date, and without seconds on a whole minute. */
export function dueWords(at: Date, clock: Clock, now: Date = new Date()): string {
  const seconds = at.getUTCSeconds() !== 0;
  return `${dayWords(at, clock, now)} ${timeWords(at, clock, { seconds })}`;
}

/** Return a moment on the clock of another zone, of which the API says `2026-11-30T02:30:00+01:00`. */
export function localWords(local: string): string {
  return dueWords(new Date(`${local.slice(0, 19)}Z`), "utc");
}

/** Return the time of day: 02:30:00, or 02:30. */
export function timeWords(at: Date, clock: Clock, { seconds = true } = {}): string {
  const words = at.toLocaleTimeString("en-GB", { hour12: false, ...zonePart(clock) });
  return seconds ? words : words.slice(0, 5);
}

/** Return all of a moment: its date with the year, its time and zone, and its time in UTC. */
export function fullWords(at: Date, clock: Clock): string {
  const parts = { weekday: "short", day: "numeric", month: "short", year: "numeric" } as const;
  const day = at.toLocaleDateString("en-GB", { ...parts, ...zonePart(clock) }).replace(",", "");
  const time = { hour: "2-digit", minute: "2-digit", second: "2-digit" } as const;
  const zone = { ...time, timeZoneName: "short", ...zonePart(clock) } as const;
  const words = `${day} ${at.toLocaleTimeString("en-GB", zone)}`;
  return words.endsWith(" UTC") ? words : `${words} · ${timeWords(at, "utc")} UTC`;
}

/** Return the date: Sun 29 Nov; with the year if it is another one. */
export function dayWords(at: Date, clock: Clock, now: Date = new Date()): string {
  const parts = { weekday: "short", day: "numeric", month: "short", ...zonePart(clock) } as const;
  const year = at.getFullYear() === now.getFullYear() ? {} : ({ year: "numeric" } as const);
  return at.toLocaleDateString("en-GB", { ...parts, ...year }).replace(",", "");
}

function zonePart(clock: Clock): { timeZone?: string } {
  return clock === "utc" ? { timeZone: "UTC" } : {};
}
