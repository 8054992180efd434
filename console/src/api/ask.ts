/**
 * Requests to the API, typed by its description: `ask("GET /executions/{id}", { path: { id: "7" } })`.
 *
 * A 401 opens the login over the page and repeats the request after it; so does a refusal that asks
 * for the password again. Everything else that is no success is a RequestError.
 */
import { loginGate, proofGate } from "../state/login.ts";
import { isAttended, UNATTENDED } from "./attended.ts";
import { awaited } from "./awaited.ts";
import { errorOf, RequestError, unreachable } from "./problem.ts";
import type { Operations } from "./types.ts";
import { type QueryValue, urlOf } from "./url.ts";

export type Route = keyof Operations;
export type Answer<R extends Route> = Operations[R]["answer"];

type Part<K extends string, V> = V extends undefined
  ? { [key in K]?: never }
  : Record<string, never> extends V
    ? { [key in K]?: V }
    : { [key in K]: V };
/** Path, query and body of a route; only what it needs is required. */
export type Given<R extends Route> = Part<"path", Operations[R]["path"]> &
  Part<"query", Operations[R]["query"]> &
  Part<"body", Operations[R]["body"]> & {
    signal?: AbortSignal;
    /** If-Match: the ETag of what is changed. */
    match?: string;
    /** The same key: the request is applied once, however often it is sent. */
    idempotencyKey?: string;
  };

interface AnyGiven {
  path?: Record<string, string>;
  query?: Record<string, QueryValue>;
  body?: unknown;
  /** A body that is no JSON: a file. */
  raw?: BodyInit;
  signal?: AbortSignal;
  match?: string;
  idempotencyKey?: string;
}

/** Send a request and return its answer. Throws a RequestError, or an AbortError. */
export async function ask<R extends Route>(
  route: R,
  ...given: Record<string, never> extends Given<R> ? [Given<R>?] : [Given<R>]
): Promise<Answer<R>> {
  const response = await askRaw(route, given[0] as AnyGiven | undefined);
  if (response.status === 204) return undefined as Answer<R>;
  const text = await arrived(response.text());
  return (text ? JSON.parse(text) : undefined) as Answer<R>;
}

/** Send a request and return its response, a success; for streams, files and headers. */
export async function askRaw(route: Route, given: AnyGiven = {}): Promise<Response> {
  const [method, template] = route.split(" ") as [string, string];
  const url = urlOf(template, given.path, given.query);
  return send(url, { method, ...requestOf(given) });
}

/** Send a request to a URL of the API that the server gave, such as a link. */
export async function send(url: string, request: RequestInit): Promise<Response> {
  for (;;) {
    const response = await attempt(url, request);
    if (response.ok) return response;
    const error = await errorOf(response);
    const signal = request.signal ?? undefined;
    if (error.status === 401) await loginGate.wait(signal);
    else if (error.code !== "password_again" || !(await proofGate.wait(signal))) throw error;
  }
}

/** Send a request once; a 401 is an answer like any other. */
export async function attempt(url: string, request: RequestInit): Promise<Response> {
  const headers = new Headers(request.headers);
  if (!isAttended()) headers.set(UNATTENDED, "true");
  const options: RequestInit = { credentials: "same-origin", cache: "no-store", ...request };
  const isRead = (request.method ?? "GET") === "GET";
  const send = (signal: AbortSignal | null) => fetch(url, { ...options, headers, signal });
  return arrived(isRead ? awaited(send, request.signal) : send(request.signal ?? null));
}

/** Wait for a part of an answer. Throws a RequestError if it does not arrive, or an AbortError. */
export async function arrived<T>(part: Promise<T>): Promise<T> {
  try {
    return await part;
  } catch (failed) {
    if (failed instanceof DOMException && failed.name === "AbortError") throw failed;
    throw unreachable();
  }
}

function requestOf(given: AnyGiven): RequestInit {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (given.match) headers["If-Match"] = given.match;
  if (given.idempotencyKey) headers["Idempotency-Key"] = given.idempotencyKey;
  const request: RequestInit = { headers };
  if (given.signal) request.signal = given.signal;
  if (given.raw !== undefined) {
    headers["Content-Type"] = "application/octet-stream";
    request.body = given.raw;
  } else if (given.body !== undefined) {
    headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(given.body);
  }
  return request;
}

export { RequestError };
