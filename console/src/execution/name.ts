/** The name of an execution. */
import type { Execution } from "../api/types.ts";

/** `patch-web #17`: the id, as in the URL and in the command line. */
export function nameOf({ job_name, id }: Execution): string {
  return `${job_name} #${id}`;
}
