/** The two outputs that are compared: each the beginning of a stream of one target. */
import { arrived, ask, askRaw } from "../api/ask.ts";

/** Instead of a second target: the last good run of the first one. */
export const LAST_GOOD = "@last-good";

export interface Wanted {
  /** Id of the execution. */
  id: string;
  /** Names of two targets; the second may be LAST_GOOD. */
  left: string;
  right: string;
  stream: "stdout" | "stderr";
  bytes: number;
}

export interface Side {
  execution: string;
  target: string;
  title: string;
  text: string;
  /** Only the beginning was read. */
  isCut: boolean;
}

type Place = Omit<Side, "text" | "isCut">;

/** Read both sides; the last good run comes first, so that what changed since then is read so. */
export async function loadSides(
  wanted: Wanted,
  signal: AbortSignal,
): Promise<readonly [Side, Side]> {
  const { id, left, right } = wanted;
  const one: Place = { execution: id, target: left, title: left };
  const places: [Place, Place] =
    right === LAST_GOOD
      ? [await lastGood(id, left, signal), one]
      : [one, { execution: id, target: right, title: right }];
  return Promise.all([read(places[0], wanted, signal), read(places[1], wanted, signal)]);
}

async function lastGood(id: string, target: string, signal: AbortSignal): Promise<Place> {
  const good = await ask("GET /executions/{id}/baseline", {
    path: { id },
    query: { target },
    signal,
  });
  const execution = String(good.execution.id);
  const name = good.target_run.target.name;
  return { execution, target: name, title: `${name} in #${execution}` };
}

async function read(place: Place, { stream, bytes }: Wanted, signal: AbortSignal): Promise<Side> {
  const response = await askRaw("GET /executions/{id}/log", {
    path: { id: place.execution },
    query: { format: "text", target: place.target, stream },
    signal,
  });
  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  for (;;) {
    const { done, value } = await arrived(reader.read());
    if (done) return { ...place, text: text + decoder.decode(), isCut: false };
    text += decoder.decode(value.subarray(0, bytes - size), { stream: true });
    size += value.length;
    if (size <= bytes) continue;
    void reader.cancel();
    return { ...place, text: text.slice(0, text.lastIndexOf("\n") + 1) || text, isCut: true };
  }
}
