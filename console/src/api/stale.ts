/** A PUT that would undo what somebody else has changed since the object was read: it is refused. */
import { RequestError } from "./problem.ts";

/** The fields by which the server knows what was read. */
const STATES: readonly (string | undefined)[] = ["/updated_at", "/version"];

/** Return what a PUT sends of the object that it replaces, as it was read. */
export function asRead(stored: { updated_at: string }): { updated_at: string } {
  return { updated_at: stored.updated_at };
}

/** Return the error; if the object was changed meanwhile, in words that name no hidden field. */
export function inWords(error: RequestError): RequestError {
  const isStale =
    error.code === "read_only" && error.errors.some((one) => STATES.includes(one.pointer));
  if (!isStale) return error;
  return new RequestError({
    type: "about:blank",
    title: "Changed meanwhile",
    status: error.status,
    detail: "Somebody has changed this meanwhile. Open it again to see what it is now.",
    code: error.code,
    request_id: error.requestId,
  });
}
