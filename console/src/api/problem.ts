/** Errors of requests: problem documents of the API (RFC 9457), and a service that does not answer. */
import { overrideWords } from "./override.ts";
import type { Problem } from "./types.ts";

const TEMPORARY: ReadonlySet<number> = new Set([0, 429, 502, 503, 504]);

/** A request that was refused, or not answered. `status` 0: the service cannot be reached. */
export class RequestError extends Error {
  readonly status: number;
  readonly code: string;
  readonly requestId: string;
  readonly errors: NonNullable<Problem["errors"]>;
  /** Seconds after which to try again, if the server said so. */
  readonly retryAfter: number | null;

  constructor(problem: Problem, retryAfter: number | null = null) {
    super(overrideWords(problem.detail));
    this.status = problem.status;
    this.code = problem.code;
    this.requestId = problem.request_id;
    this.errors = problem.errors ?? [];
    this.retryAfter = retryAfter;
  }

  /** True if trying again later may help: overload, an outage, also behind a proxy, no network. */
  get isTemporary(): boolean {
    return TEMPORARY.has(this.status);
  }
}

/** Return the error of a response that is no success. */
export async function errorOf(response: Response): Promise<RequestError> {
  const seconds = Number(response.headers.get("Retry-After") ?? Number.NaN);
  const retryAfter = Number.isFinite(seconds) ? Math.max(1, seconds) : null;
  let problem: Problem;
  try {
    problem = (await response.json()) as Problem;
  } catch {
    problem = unreadable(response);
  }
  if (typeof problem?.detail !== "string") problem = unreadable(response);
  return new RequestError({ ...problem, status: response.status }, retryAfter);
}

function unreadable(response: Response): Problem {
  return {
    type: "about:blank",
    title: response.statusText,
    status: response.status,
    detail: `The answer has status ${response.status} and no reason. Something between this browser and opsjobs sent it.`,
    code: "unreadable_answer",
    request_id: response.headers.get("X-Request-ID") ?? "",
  };
}

/** Return the error of a request without an answer. */
export function unreachable(): RequestError {
  return new RequestError({
    type: "about:blank",
    title: "No answer",
    status: 0,
    detail: "opsjobs does not answer. Is the service up, and this machine's network?",
    code: "no_answer",
    request_id: "",
  });
}
