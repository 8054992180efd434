/** Why a login at the OpenID Connect provider failed, as the server says in the address. */
import { signal } from "@preact/signals";
import { RequestError } from "../api/problem.ts";

/** What happened, and what to do. The keys are the problems of the server. */
export const LOGIN_PROBLEMS: Readonly<Record<string, string>> = {
  oidc_off: "Single sign-on is not set up here. Log in in another way.",
  oidc_denied:
    "The login was refused there, by you or by the provider. Try again, or ask an administrator of the provider if you may use opsjobs.",
  oidc_refused:
    "The provider did not log you in. Try again. If it stays so, give an administrator of opsjobs the request id: the log has the provider's reason.",
  oidc_expired: "This login took over 5 minutes, or was finished before. Log in again.",
  oidc_other_browser:
    "This login was begun in another browser, or this one refused its cookie. Log in again, in this browser.",
  oidc_unavailable: "The provider does not answer opsjobs now. Try again in a minute.",
  oidc_code:
    "The provider does not accept this login any more: it is used, or too old. Log in again.",
  oidc_client:
    "The provider does not accept opsjobs: its client id, secret or redirect address is wrong. Give an administrator of opsjobs the request id.",
  oidc_token:
    "The provider's answer is not valid, so it is not used. Log in again. If it stays so, give an administrator of opsjobs the request id: the log has the reason.",
  oidc_clock:
    "The clocks of the provider and of opsjobs differ too much. An administrator has to set them right; after that, log in again.",
  oidc_no_rights:
    "You are known to the provider, but it gives you no permission here. Ask an administrator for a role in opsjobs, then log in again.",
  oidc_other_person:
    "That was another person than the one who is logged in here, or the session has ended. Confirm as the same person, or log in again.",
  oidc_no_session:
    "There is no session to confirm at this address: it has ended, or you opened the console at another address. Open the console at this address, log in, and make the change here.",
  oidc_not_fresh:
    "The provider did not ask for your password again, or does not say when it did (auth_time). Try again. If it stays so, an administrator has to have it send auth_time.",
  oidc_locked:
    "There were too many failed logins from your address. Try again in a quarter of an hour.",
  oidc_plain_http:
    "A login needs https, and this request came over plain http. Open the address with https. Behind a proxy, an administrator has to set OPSJOBS_TRUSTED_PROXIES.",
};

const UNKNOWN = "The login failed. Try again.";

/** The problem of the login that led here; null if there is none. */
export const loginProblem = signal<RequestError | null>(null);

/** Return the problem in a fragment such as `#login-problem=oidc_denied&request=4f…`. */
export function problemOf(fragment: string): RequestError | null {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const code = given.get("login-problem");
  if (code === null) return null;
  const known = Object.hasOwn(LOGIN_PROBLEMS, code);
  const request = given.get("request") ?? "";
  return new RequestError({
    type: "about:blank",
    title: "Not logged in",
    status: 403,
    detail: (known && LOGIN_PROBLEMS[code]) || UNKNOWN,
    code: known ? code : "login_failed",
    request_id: /^[\w.:-]{1,128}$/.test(request) ? request : "",
  });
}
