/** The eight tones, and which one each state of the API has. */
export const TONES = ["bad", "lost", "warn", "hold", "live", "wait", "off", "ok"] as const;
export type Tone = (typeof TONES)[number];

const TONE_OF: Record<string, Tone> = {
  succeeded: "ok",
  completed: "ok",
  approved: "ok",
  triggered: "ok",
  ok: "ok",
  active: "ok",
  closed: "ok",
  delivered: "ok",
  running: "live",
  queued: "live",
  cancelling: "live",
  half_open: "live",
  waiting: "wait",
  scheduled: "wait",
  draft: "wait",
  new: "wait",
  unknown: "wait",
  paused: "hold",
  maintenance: "hold",
  pending: "hold",
  pending_approval: "hold",
  blocked: "hold",
  partial: "warn",
  unhealthy: "warn",
  timeout: "warn",
  unreachable: "warn",
  open: "warn",
  missed: "warn",
  expired: "warn",
  degraded: "warn",
  failed: "bad",
  refused: "bad",
  lost: "lost",
  dead: "lost",
  cancelled: "off",
  skipped: "off",
  rejected: "off",
  archived: "off",
  disabled: "off",
};

/** Return the tone of a state; an unknown one waits. */
export function toneOf(state: string): Tone {
  return TONE_OF[state] ?? "wait";
}

/** Return a state in words: `pending_approval` as "pending approval". */
export function wordsOf(state: string): string {
  return state.replaceAll("_", " ");
}

/** Return the counts as pairs, worst tone first, zeros left out. */
export function worstFirst(counts: Record<string, number>): [string, number][] {
  return Object.entries(counts)
    .filter(([, count]) => count > 0)
    .sort(([a], [b]) => TONES.indexOf(toneOf(a)) - TONES.indexOf(toneOf(b)));
}
