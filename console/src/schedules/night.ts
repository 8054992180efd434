/** Until when a night lasts, and what begins together in it. */
import type { UpcomingMoment } from "../api/types.ts";

const MORNING = 8;

/** Return the next eight o'clock in the morning of this browser's zone, at least two hours ahead. */
export function nightEnd(now: Date): Date {
  const end = new Date(now);
  end.setHours(MORNING, 0, 0, 0);
  while (end.getTime() - now.getTime() < 2 * 3_600_000) end.setDate(end.getDate() + 1);
  return end;
}

export interface Crowded {
  /** The first moment of the minute. */
  at: string;
  count: number;
  targets: number;
}

/** Return the minutes in which several schedules begin, the most crowded first. */
export function sameMinute(moments: readonly UpcomingMoment[]): Crowded[] {
  const minutes = new Map<number, UpcomingMoment[]>();
  for (const moment of moments) {
    if (moment.closed) continue;
    const minute = Math.floor(Date.parse(moment.fire_at) / 60_000);
    minutes.set(minute, [...(minutes.get(minute) ?? []), moment]);
  }
  return [...minutes.values()]
    .filter((together) => together.length > 1)
    .map((together) => ({
      at: together[0]!.fire_at,
      count: together.length,
      targets: together.reduce((sum, one) => sum + one.targets, 0),
    }))
    .sort((a, b) => b.count - a.count || Date.parse(a.at) - Date.parse(b.at));
}

/** A schedule that is due so often that its times are not listed one by one. */
export interface Often {
  first: UpcomingMoment;
  count: number;
}

const OFTEN = 8;

/** Return the moments to list, and the schedules that are due too often for that. */
export function listed(moments: readonly UpcomingMoment[]): {
  single: UpcomingMoment[];
  often: Often[];
} {
  const bySchedule = new Map<number, UpcomingMoment[]>();
  for (const moment of moments) {
    const { id } = moment.schedule;
    bySchedule.set(id, [...(bySchedule.get(id) ?? []), moment]);
  }
  const crowds = [...bySchedule.values()].filter((all) => all.length > OFTEN);
  const left = new Set(crowds.map((all) => all[0]!.schedule.id));
  return {
    single: moments.filter((moment) => !left.has(moment.schedule.id)),
    often: crowds.map((all) => ({ first: all[0]!, count: all.length })),
  };
}
