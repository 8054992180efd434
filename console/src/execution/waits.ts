/** The reasons of a run's wait in words: "waits for …". */
import type { Execution } from "../api/types.ts";
import { wordsOf } from "../parts/tone.ts";

const WAITS: Readonly<Record<string, string>> = {
  admission: "its turn or its wave",
  slot: "a slot of its target",
  backoff: "its next attempt",
  barrier: "the other targets of its wave",
  approval: "an approval",
  child: "another job",
  timer: "its time",
  hold: "its target, which is held",
};
/** What holds up all runs that have not begun, by the kind of the execution's wait. */
const HELD: Readonly<Record<string, string>> = {
  approval: "an approval",
  exclusive: "a lock",
  pause: "the execution to be resumed",
  confirm: "a person to open its wave",
};

/** Return what a run waits for; `execution` says what it waits for as a whole. */
export function waitWords(waitingFor: string, execution: Execution | null): string {
  const held = waitingFor === "admission" && execution?.waiting_on?.kind;
  return (held && HELD[held]) || WAITS[waitingFor] || wordsOf(waitingFor);
}
