/** Who is logged in, and what the console shows them. The server judges every request anyway. */
import { signal } from "@preact/signals";
import { ask, attempt } from "../api/ask.ts";
import { errorOf, RequestError } from "../api/problem.ts";
import type { Me } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { loginGate, proofGate } from "./login.ts";
import { loginProblem } from "./login-problem.ts";

export const me = signal<Me | null>(null);

const RETRY_SECONDS = 5;

/** Why it is not known yet who is logged in, and when that is asked again; null: by a reload. */
export const unknownMe = signal<{ error: RequestError; retryAt: number | null } | null>(null);

/** Load who is logged in; opens the login if nobody is. Goes on until the service answers. */
export async function loadMe(): Promise<void> {
  try {
    me.value = await ask("GET /auth/me");
    unknownMe.value = null;
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    const ms = (error.retryAfter ?? RETRY_SECONDS) * 1_000;
    unknownMe.value = { error, retryAt: error.isTemporary ? Date.now() + ms : null };
    if (error.isTemporary) setTimeout(() => void loadMe(), ms);
  }
}

/** What somebody logs in with. */
export type Login = { username: string; password: string } | { code: string };

/** Log in: the answer sets a cookie that no script can read. Throws a RequestError. */
export async function login(given: Login): Promise<void> {
  const person = await post("/auth/session", given);
  if (isSomebodyElse(person)) return location.reload();
  enter(person);
}

/** True if another identity than before is logged in: nothing that was loaded is theirs. */
function isSomebodyElse({ name, kind }: Me): boolean {
  const before = me.value;
  return before !== null && (before.name !== name || before.kind !== kind);
}

function enter(person: Me): void {
  me.value = person;
  loginProblem.value = null;
  loginGate.close({ passed: true });
}

/** Go on after a login in another tab. */
export async function resumeLogin(): Promise<void> {
  const person = await readMe();
  if (person === null) return;
  if (isSomebodyElse(person)) return location.reload();
  enter(person);
}

/** Go on after a confirmation in another tab: what waits is sent only as the same identity. */
export async function resumeConfirmed(): Promise<void> {
  const person = await readMe();
  if (person === null) return;
  if (isSomebodyElse(person)) return location.reload();
  const until = person.session?.confirmed_until;
  if (!until || new Date(until) <= new Date()) return;
  me.value = person;
  proofGate.close({ passed: true });
}

/** Return who is logged in now; null if nobody is. */
async function readMe(): Promise<Me | null> {
  const headers = { Accept: "application/json" };
  const response = await attempt(`${PREFIX}/auth/me`, { headers });
  return response.ok ? ((await response.json()) as Me) : null;
}

/** Prove again who is there, by the password or a new code. Throws a RequestError. */
export async function confirmSession(given: { password: string } | { code: string }) {
  me.value = await post("/auth/confirm", given);
  proofGate.close({ passed: true });
}

/** Change the password: all logins of the person end, this one, too. Throws a RequestError. */
export async function changePassword(current: string, password: string): Promise<void> {
  await post("/auth/password", { current_password: current, password });
  location.assign("/console/");
}

/** Send a body once: a 401 says here that the password or the code is wrong. */
async function post(path: string, body: unknown): Promise<Me> {
  const response = await attempt(PREFIX + path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw await errorOf(response);
  return (response.status === 204 ? null : await response.json()) as Me;
}

/** Return the code in what somebody pasted: the code itself, or the address that has it. */
export function codeOf(pasted: string): string {
  const text = pasted.trim();
  return new URLSearchParams(text.slice(text.indexOf("#") + 1)).get("code") ?? text;
}

/** The logout of the provider of who has just logged out here; null if there is none. */
export const loggedOutFrom = signal<string | null>(null);

/** Log out, and forget everything that this page has loaded. */
export async function logout(): Promise<void> {
  const elsewhere = me.value?.session?.external?.logout_url ?? null;
  const response = await attempt(`${PREFIX}/auth/session`, { method: "DELETE" });
  if (!response.ok && response.status !== 401) throw await errorOf(response);
  if (elsewhere === null) return location.assign("/console/");
  loggedOutFrom.value = elsewhere;
  me.value = null;
}
