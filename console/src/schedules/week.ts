/** The hours of a forecast by day, so that a week fits on a page. */
import type { Hour } from "../api/types.ts";
import { type Clock, dayWords, timeWords } from "../parts/moment.ts";

const HOUR_MS = 3_600_000;

/** One or several hours of a day. */
export interface Slot {
  /** Its place in the day, from 0. */
  place: number;
  fromMs: number;
  toMs: number;
  due: number;
  /** Those that a calendar skips. */
  skipped: number;
  targets: number;
}

export interface Day {
  words: string;
  slots: Slot[];
}

/**
 * Return the days, each with its slots of so many hours.
 *
 * Each slot has the place of its clock time, whatever day it is. The hour that a clock repeats in
 * autumn is in the slot of the first one.
 */
export function daysOf(hours: readonly Hour[], clock: Clock, hoursEach: number): Day[] {
  const days: Day[] = [];
  for (const hour of hours) {
    const start = new Date(hour.from);
    const words = dayWords(start, clock);
    const place = Math.floor(Number(timeWords(start, clock).slice(0, 2)) / hoursEach);
    if (days.at(-1)?.words !== words) days.push({ words, slots: [] });
    const { slots } = days.at(-1)!;
    const fromMs = start.getTime();
    if (slots.at(-1)?.place !== place) {
      slots.push({ place, fromMs, toMs: fromMs, due: 0, skipped: 0, targets: 0 });
    }
    const slot = slots.at(-1)!;
    slot.toMs = fromMs + HOUR_MS;
    slot.due += hour.firings;
    slot.skipped += hour.closed;
    slot.targets += hour.targets;
  }
  return days;
}

/** The most due times of a slot, skipped ones too. */
export const mostOf = (days: readonly Day[]): number =>
  Math.max(0, ...days.flatMap((day) => day.slots.map((slot) => slot.due + slot.skipped)));
