/** Logins at the OpenID Connect provider, which happen on pages of their own. */

/** The page at the end of a login in a tab of its own. */
export const LOGGED_IN = "/logged-in";
const CHANNEL = "opsjobs-login";

interface Options {
  /** The login has a tab of its own, and ends there: another tab waits for it. */
  inOwnTab: boolean;
  /** Prove again who is there, in the same session. */
  confirm?: boolean;
}

/** Return the address at which a login begins, and which comes back to the page that is shown. */
export function loginUrl(start: string, { inOwnTab, confirm = false }: Options): string {
  const back = inOwnTab ? `/console${LOGGED_IN}` : location.pathname + location.search;
  const query = new URLSearchParams({ return: back, ...(confirm && { confirm: "true" }) });
  return `${start}?${query}`;
}

/** Return the address at which logins end, if it is not that of this page; null if it is. */
export function otherAddress(start: string): string | null {
  const { origin } = new URL(start, location.href);
  return origin === location.origin ? null : origin;
}

/** Call `then` whenever a login has ended in another tab; the answer stops it. */
export function onLoginElsewhere(then: () => void): () => void {
  const channel = new BroadcastChannel(CHANNEL);
  channel.onmessage = then;
  return () => channel.close();
}

/** Tell the other tabs that a login has ended in this one. */
export function tellOtherTabs(): void {
  const channel = new BroadcastChannel(CHANNEL);
  channel.postMessage("logged in");
  channel.close();
}
