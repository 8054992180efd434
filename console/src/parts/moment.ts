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

/** Return date and time with the zone; `day` false leaves out the date of today. */
export function momentWords(at: Date, clock: "local" | "utc", now: Date = new Date()): string {
  const zone = clock === "utc" ? { timeZone: "UTC" } : {};
  const sameDay = dayOf(at, zone) === dayOf(now, zone);
  const time = at.toLocaleTimeString("en-GB", { ...zone, hour12: false });
  return `${sameDay ? "" : `${dayOf(at, zone)} `}${time}${clock === "utc" ? " UTC" : ""}`;
}

function dayOf(at: Date, zone: { timeZone?: string }): string {
  const parts = { ...zone, weekday: "short", day: "numeric", month: "short" } as const;
  const year = at.getFullYear() === new Date().getFullYear() ? {} : ({ year: "numeric" } as const);
  return at.toLocaleDateString("en-GB", { ...parts, ...year }).replace(",", "");
}
