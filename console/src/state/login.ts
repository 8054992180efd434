/** Dialogs that a refused request waits for: the login, and a fresh proof of who is there. */
import { signal } from "@preact/signals";

/** A dialog over the page. Requests wait until it is passed, or given up. */
class Gate {
  /** True while the dialog lies over the page. */
  readonly open = signal(false);
  private waiting: PromiseWithResolvers<boolean> | null = null;

  /** Open the dialog; true once it was passed, false if it was given up. Throws an AbortError. */
  wait(signal?: AbortSignal): Promise<boolean> {
    this.waiting ??= Promise.withResolvers<boolean>();
    this.open.value = true;
    const { promise } = this.waiting;
    if (!signal) return promise;
    return new Promise((resolve, reject) => {
      const give = () => reject(new DOMException("The request was given up.", "AbortError"));
      signal.addEventListener("abort", give, { once: true });
      if (signal.aborted) give();
      promise.then(resolve, reject);
    });
  }

  /** Close the dialog: what waited for it goes on, or fails with its refusal. */
  close({ passed }: { passed: boolean }): void {
    this.open.value = false;
    this.waiting?.resolve(passed);
    this.waiting = null;
  }
}

/** The login. It cannot be given up: the page has nothing without it. */
export const loginGate = new Gate();
/** The proof that it is still the same person, before sensitive changes. */
export const proofGate = new Gate();
