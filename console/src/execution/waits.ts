/** The reasons of a run's wait in words: "waits for …". */
export const WAITS: Readonly<Record<string, string>> = {
  admission: "its turn or its wave",
  slot: "a slot of its target",
  backoff: "its next attempt",
  barrier: "the other targets of its wave",
  approval: "an approval",
  child: "another job",
  timer: "its time",
  hold: "its target, which is held",
};
