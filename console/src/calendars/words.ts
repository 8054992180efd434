/** Windows of calendars in words. */
import type { Window } from "../api/types.ts";

/** Return a window: `Mon, Tue 22:00 to 06:00, from 1 Dec`. */
export function windowWords(window: Window): string {
  const { weekdays, dates, yearly, start, end, from, until } = window;
  const days = [
    weekdays?.map((day) => day[0]!.toUpperCase() + day.slice(1)).join(", "),
    dates?.join(", "),
    yearly?.map((day) => `each year on ${day}`).join(", "),
  ].filter(Boolean);
  const hours = start || end ? `${start ?? "00:00"} to ${end ?? "24:00"}` : "";
  const span = [from && `from ${minuteOf(from)}`, until && `until ${minuteOf(until)}`]
    .filter(Boolean)
    .join(" ");
  const when = [days.join("; ") || (hours ? "every day" : ""), hours].filter(Boolean).join(" ");
  return [when, span].filter(Boolean).join(", ") || "always";
}

/** `2026-12-24T18:00:00` as `2026-12-24 18:00`. */
function minuteOf(moment: string): string {
  return moment.replace("T", " ").replace(/(:\d\d):00(?=$|[+Z-])/, "$1");
}
