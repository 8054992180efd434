/** The differences of two outputs, computed in a worker. */
import type { DiffRequest } from "./diff.worker.ts";
import type { DiffRow } from "./rows.ts";

/** The address of the worker's script, filled in by the build. */
declare const DIFF_WORKER: string;

/** Browsers with Trusted Types load a worker only from an address that a policy has passed. */
interface PolicyFactory {
  createPolicy(
    name: string,
    rules: { createScriptURL(url: string): string },
  ): { createScriptURL(url: string): string };
}

const { trustedTypes } = globalThis as { trustedTypes?: PolicyFactory };
/** The only policy that the server's Content-Security-Policy allows: it passes one address. */
const policy = trustedTypes?.createPolicy("opsjobs-worker", {
  createScriptURL(url) {
    if (url === DIFF_WORKER) return url;
    throw new TypeError(`${url} is not the worker of the console.`);
  },
});

/** Compare two texts; the result is that of `compare`, folded. Abort it with the signal. */
export function diffInWorker(request: DiffRequest, signal: AbortSignal): Promise<DiffRow[]> {
  const worker = new Worker(policy ? policy.createScriptURL(DIFF_WORKER) : DIFF_WORKER);
  const found = new Promise<DiffRow[]>((done, fail) => {
    worker.onmessage = (event: MessageEvent<DiffRow[]>) => done(event.data);
    worker.onerror = (event) => fail(new Error(event.message || "The comparison has failed."));
    signal.addEventListener("abort", () => fail(signal.reason));
  });
  worker.postMessage(request);
  return found.finally(() => worker.terminate());
}
