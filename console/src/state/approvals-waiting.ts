/** How many launches and actions wait for an approval that this person may give. */
import { signal } from "@preact/signals";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import { mayDo } from "./rights.ts";

export const approvalsWaiting = signal(0);

/** Count them again. Without an answer the last number stays: the page itself says what is wrong. */
export async function countApprovals(): Promise<void> {
  if (!mayDo("executions:read") || !mayDo("approvals:decide")) return;
  try {
    const query = { can: "approve", page: 1, size: 1 } as const;
    approvalsWaiting.value = (await ask("GET /approvals", { query })).total ?? 0;
  } catch (failed) {
    if (!(failed instanceof RequestError)) throw failed;
  }
}
