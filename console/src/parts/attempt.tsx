/** What a button does at once: busy meanwhile, and why it was refused. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { RequestError } from "../api/problem.ts";
import { Trouble } from "./trouble.tsx";

export interface Attempt {
  /** Something is being done; another attempt does nothing until it has ended. */
  busy: boolean;
  /** Why the last attempt was refused, to be shown; null if it was not. */
  trouble: ComponentChildren;
  attempt: (what: () => Promise<unknown>) => Promise<void>;
}

/** Return what does one thing at a time. */
export function useAttempt(): Attempt {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<RequestError | null>(null);
  const attempt = async (what: () => Promise<unknown>) => {
    if (busy) return;
    setBusy(true);
    setError(null);
    try {
      await what();
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return { busy, trouble: error && <Trouble error={error} />, attempt };
}
