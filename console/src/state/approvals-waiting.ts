/** How many launches and actions wait for a decision; shown in the navigation. */
import { signal } from "@preact/signals";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import { isPlace } from "../routes.ts";
import { mayDo } from "./rights.ts";

export const approvalsWaiting = signal(0);

/** Count them again. Without an answer the last number stays: the page itself says what is wrong. */
export async function countApprovals(): Promise<void> {
  if (!isPlace("/approvals") || !mayDo("executions:read")) return;
  try {
    const query = { status: ["pending"], page: 1, size: 1 };
    approvalsWaiting.value = (await ask("GET /approvals", { query })).total ?? 0;
  } catch (failed) {
    if (!(failed instanceof RequestError)) throw failed;
  }
}
