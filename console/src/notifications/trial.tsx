/** A test message to each recipient of a rule, and what came of it. */
import { useState } from "preact/hooks";
import { ask, RequestError } from "../api/ask.ts";
import type { NotificationRule, NotificationTest } from "../api/types.ts";
import { AsCommand } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Trouble } from "../parts/trouble.tsx";
import { hasOwnText, trialWords } from "./draft.ts";

type Sent = NotificationTest["items"];

export function Trial({ rule }: { rule: NotificationRule }) {
  const [busy, setBusy] = useState(false);
  const [sent, setSent] = useState<Sent | null>(null);
  const [error, setError] = useState<RequestError | null>(null);
  const send = async () => {
    setBusy(true);
    setSent(null);
    setError(null);
    try {
      setSent((await ask("POST /notifications/test", { body: rule })).items);
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <div class="stack-tight">
      <div>
        <button
          type="button"
          class="button"
          disabled={busy || rule.to.length === 0}
          aria-busy={busy}
          onClick={() => void send()}
        >
          Send a test now
        </button>
      </div>
      <div aria-live="polite">
        {sent && (
          <ul class="entries">
            {sent.map((one) => (
              <li key={one.to}>
                <Status
                  state={one.delivered ? "ok" : "failed"}
                  label={one.delivered ? "delivered" : "not delivered"}
                />
                <b>
                  <Text of={one.to} />
                </b>
                <span class="dim">
                  <Text of={one.error ?? one.response ?? ""} />
                </span>
              </li>
            ))}
          </ul>
        )}
      </div>
      {error && <Trouble error={error} />}
      {rule.to.length > 0 && !hasOwnText(rule) && <AsCommand words={trialWords(rule)} />}
    </div>
  );
}

interface TrialDialogProps {
  rule: NotificationRule;
  onClose: () => void;
}

export function TrialDialog({ rule, onClose }: TrialDialogProps) {
  return (
    <Dialog title="Test the rule" onClose={onClose}>
      <p>
        Each recipient gets one message now: <Text of={rule.to.join(", ")} />. It says that it is a
        test; how often the rule sends does not matter.
      </p>
      <Trial rule={rule} />
      <div class="actions">
        <button type="button" class="button" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
