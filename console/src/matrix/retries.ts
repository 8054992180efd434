/** Which runs each choice of a retry covers, as the service decides it. */
import type { Which } from "../api/types.ts";
import type { Runs } from "./runs.ts";
import { isFinal, RUN_STATUSES, RUNNING, WAITING } from "./states.ts";

export const CHOICES = [
  "failed",
  "unreachable",
  "lost",
  "not_started",
  "unsuccessful",
] as const satisfies readonly Which[];

/** The errors of a connection that could not be made; a dead run counts by its last error. */
const UNREACHABLE = new Set([
  "dns",
  "connect_timeout",
  "connection_refused",
  "connection_lost",
  "host_key",
  "auth_failed",
  "credential_missing",
  "circuit_open",
  "target_busy",
]);
const LOST = new Set(["lost", "poison"]);

/** States that no choice covers: most runs have one of them. */
const NEVER = new Set([WAITING, RUNNING, RUN_STATUSES.indexOf("succeeded")]);

/** The number of runs that each choice covers. */
export function countChoices(runs: Runs): ReadonlyMap<Which, number> {
  const counts = new Map<Which, number>(CHOICES.map((which) => [which, 0]));
  for (let row = 0; row < runs.count; row++) {
    if (NEVER.has(runs.status[row]!)) continue;
    for (const which of CHOICES)
      if (fitsChoice(runs, row, which)) counts.set(which, counts.get(which)! + 1);
  }
  return counts;
}

/** True if the run belongs to the choice. */
export function fitsChoice(runs: Runs, row: number, which: Which): boolean {
  const status = runs.status[row]!;
  const word = RUN_STATUSES[status]!;
  switch (which) {
    case "unsuccessful":
      return isFinal(status) && word !== "succeeded";
    case "not_started":
      if (word === "skipped" || word === "blocked") return true;
      return (word === "cancelled" || word === "timeout") && runs.proof[row] === "never_started";
    default:
      return endedAs(runs, row, word) === which;
  }
}

function endedAs(runs: Runs, row: number, word: string): string {
  const error = runs.errorCode[row];
  if (word !== "dead" || !error) return word;
  if (LOST.has(error)) return "lost";
  if (UNREACHABLE.has(error)) return "unreachable";
  return error === "command_timeout" ? "timeout" : "failed";
}
