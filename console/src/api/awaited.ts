/** Reads that wait long for their answer: the page says so, and none waits for ever. */
import { signal } from "@preact/signals";

export const SLOW_MS = 8_000;
export const GIVE_UP_MS = 60_000;

/** The number of reads that have waited long. */
export const slowReads = signal(0);

/**
 * Send a read and wait for its answer to begin. The signal that `send` gets ends it, also later.
 *
 * Rejects if there is no answer in time.
 */
export async function awaited(
  send: (signal: AbortSignal) => Promise<Response>,
  given: AbortSignal | null | undefined,
): Promise<Response> {
  const late = new AbortController();
  let isSlow = false;
  const slow = setTimeout(() => {
    isSlow = true;
    slowReads.value += 1;
  }, SLOW_MS);
  const giveUp = setTimeout(
    () => late.abort(new DOMException("No answer in time.", "TimeoutError")),
    GIVE_UP_MS,
  );
  try {
    return await send(given ? AbortSignal.any([given, late.signal]) : late.signal);
  } finally {
    clearTimeout(slow);
    clearTimeout(giveUp);
    if (isSlow) slowReads.value -= 1;
  }
}
