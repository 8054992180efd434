/** A moment in the person's zone, all of it on hover; ages that go on by themselves. */
import { signal } from "@preact/signals";
import { taste } from "../state/taste.ts";
import { None } from "./empty.tsx";
import { agoWords, dueWords, durationWords, fullWords, momentWords } from "./moment.ts";

/** The time, once a second while the page is seen. */
export const now = signal(new Date());
setInterval(() => {
  if (!document.hidden) now.value = new Date();
}, 1_000);

interface TimeProps {
  at: string | null;
  /** As an age ("4 min ago") instead of a moment. */
  ago?: boolean;
  /** The due time of a schedule. */
  due?: boolean;
}

export function Time({ at, ago = false, due = false }: TimeProps) {
  if (at === null) return <None />;
  const moment = new Date(at);
  const { clock } = taste.value;
  return (
    <time dateTime={at} title={fullWords(moment, clock)}>
      {ago ? agoWords(moment, now.value) : (due ? dueWords : momentWords)(moment, clock)}
    </time>
  );
}

/** How long something took, or takes: `since` without `until` counts on. */
export function Duration({ since, until }: { since: string | null; until?: string | null }) {
  if (since === null) return <span class="dim">–</span>;
  const end = until ? new Date(until) : now.value;
  return <span>{durationWords(end.getTime() - new Date(since).getTime())}</span>;
}
