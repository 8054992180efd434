/** The name of an execution. */
import type { Execution } from "../api/types.ts";

/** `patch-web #17`; one without a stored job has its id. */
export function nameOf({ job_name, number, id }: Execution): string {
  return `${job_name} #${number ?? id}`;
}
