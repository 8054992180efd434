/** The login that a refused request waits for. */
import { signal } from "@preact/signals";

/** True while the login lies over the page. */
export const loginNeeded = signal(false);

let waiting: PromiseWithResolvers<void> | null = null;

/** Open the login and wait until it has succeeded. Throws an AbortError if the caller gives up. */
export function loggedIn(signal?: AbortSignal): Promise<void> {
  waiting ??= Promise.withResolvers<void>();
  loginNeeded.value = true;
  const { promise } = waiting;
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const give = () => reject(new DOMException("The request was given up.", "AbortError"));
    signal.addEventListener("abort", give, { once: true });
    if (signal.aborted) give();
    promise.then(resolve, reject);
  });
}

/** Close the login: requests that waited for it are sent again. */
export function loginSucceeded(): void {
  loginNeeded.value = false;
  waiting?.resolve();
  waiting = null;
}
