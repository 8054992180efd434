/**
 * Whether somebody uses the page. What a page that nobody uses loads by itself, by a timer or after
 * an event, must not keep its session from ending as idle.
 */
const ATTENDED_MS = 60_000;
const SIGNS = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"];

/** Header of requests that nobody asked for; only of reads the server believes it. */
export const UNATTENDED = "Opsjobs-Unattended";

let usedAt = Date.now();

/** Note from now on when somebody uses the page. */
export function watchUse(page: EventTarget): void {
  const note = () => {
    usedAt = Date.now();
  };
  for (const sign of SIGNS) page.addEventListener(sign, note, { capture: true, passive: true });
}

/** True if somebody has used the page within the last minute, or has just opened it. */
export function isAttended(): boolean {
  return Date.now() - usedAt < ATTENDED_MS;
}
