/** Who is logged in, and what the console shows them. The server judges every request anyway. */
import { signal } from "@preact/signals";
import { type Answer, ask, attempt } from "../api/ask.ts";
import { errorOf } from "../api/problem.ts";
import type { Me } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { loginSucceeded } from "./login.ts";

export const me = signal<Me | null>(null);

/** Load who is logged in; opens the login if nobody is. */
export async function loadMe(): Promise<void> {
  me.value = await ask("GET /auth/me");
}

/** What somebody logs in with. */
export type Login = { username: string; password: string } | { code: string };

/** Log in: the answer sets a cookie that no script can read. Throws a RequestError. */
export async function login(given: Login): Promise<void> {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(given) };
  const response = await attempt(`${PREFIX}/auth/session`, request);
  if (!response.ok) throw await errorOf(response);
  const person = (await response.json()) as Answer<"POST /auth/session">;
  // Another person than before: nothing that was loaded is theirs.
  if (me.value !== null && me.value.name !== person.name) return location.reload();
  me.value = person;
  loginSucceeded();
}

/** Log out, and forget everything that this page has loaded. */
export async function logout(): Promise<void> {
  const response = await attempt(`${PREFIX}/auth/session`, { method: "DELETE" });
  if (!response.ok && response.status !== 401) throw await errorOf(response);
  location.assign("/console/");
}
