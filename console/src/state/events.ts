/** The stream of events that the person may see: one for the tab, shared by all that is shown. */
import { useEffect } from "preact/hooks";
import { follow } from "../api/stream.ts";
import { urlOf } from "../api/url.ts";

/** What the console listens to. Runs of targets come by an execution's own stream. */
const TYPES = [
  "approval.*",
  "circuit.*",
  "execution.*",
  "job.created",
  "job.deleted",
  "job.updated",
  "schedule.*",
  "target_run.dead",
  "target_run.lost",
  "worker.*",
];
const GATHER_MS = 400;

type Listener = (type: string) => void;
const listeners = new Set<Listener>();
/** The type of what is told if events were missed: everything may have changed. */
export const MISSED = "*";

/** Follow the events of this service, until the returned function is called. */
export function followEvents(): () => void {
  let stop = () => {};
  const begin = () => {
    stop = follow({
      url: urlOf("/events", {}, { type: TYPES }),
      onEvent: ({ event }) => event && tell(event),
      onEnd: (error) => {
        if (error.status !== 410) return;
        tell(MISSED);
        begin();
      },
    });
  };
  begin();
  return () => stop();
}

function tell(type: string): void {
  for (const listener of listeners) listener(type);
}

/** True if an event has one of these types, such as `execution.*`. */
export function isOneOf(type: string, types: readonly string[]): boolean {
  return (
    type === MISSED ||
    types.some((one) => (one.endsWith("*") ? type.startsWith(one.slice(0, -1)) : type === one))
  );
}

/** Call `onNews` soon after events of these types; once for all that come together. */
export function useEvents(types: readonly string[], onNews: () => void, everyMs = 2_000): void {
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    const listener = (type: string) => {
      if (timer !== undefined || !isOneOf(type, types)) return;
      timer = setTimeout(
        () => {
          timer = undefined;
          last = Date.now();
          onNews();
        },
        Math.max(GATHER_MS, last + everyMs - Date.now()),
      );
    };
    listeners.add(listener);
    return () => {
      clearTimeout(timer);
      listeners.delete(listener);
    };
  }, [types.join(" "), onNews]);
}
