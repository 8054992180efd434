/** How long an execution took: from the launch to the end, everywhere, as the API counts it. */
import type { Execution } from "../api/types.ts";
import { durationWords } from "../parts/moment.ts";
import { now } from "../parts/time.tsx";

type Times = Pick<Execution, "created_at" | "started_at" | "finished_at">;

/** Return what the duration counts, and how much of it was a wait. */
function explained({ created_at, started_at, finished_at }: Times): string {
  const end = finished_at ? "to its end" : "until now";
  if (!started_at) return `From the launch ${end}; no target has begun`;
  const waited = Date.parse(started_at) - Date.parse(created_at);
  return `From the launch ${end}; the first target began after ${durationWords(waited)}`;
}

export function Took({ of }: { of: Times }) {
  const end = of.finished_at ? Date.parse(of.finished_at) : now.value.getTime();
  return <span title={explained(of)}>{durationWords(end - Date.parse(of.created_at))}</span>;
}
