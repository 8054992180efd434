/** Makes an API key of one's own, and shows its token, this once. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Field, Form, faultOf, NameField } from "../parts/form.tsx";
import { SecretOnce } from "../parts/secret-once.tsx";

const DAY_MS = 86_400_000;
const DAYS = [7, 30, 90, 365] as const;

interface NewKeyDialogProps {
  onMade: () => void;
  onClose: () => void;
}

export function NewKeyDialog({ onMade, onClose }: NewKeyDialogProps) {
  const [name, setName] = useState("");
  const [days, setDays] = useState("90");
  const [token, setToken] = useState<string | null>(null);
  const make = async () => {
    const expires_at = days ? new Date(Date.now() + Number(days) * DAY_MS).toISOString() : null;
    const made = await ask("POST /auth/keys", { body: { name, expires_at } });
    setToken(made.token ?? "");
    onMade();
  };
  if (token !== null)
    return (
      <SecretOnce
        title={`The token of ${name}`}
        secret={token}
        what="token"
        done="I have it"
        onClose={onClose}
      >
        Anyone who has it can do what you can.
      </SecretOnce>
    );
  return (
    <Dialog title="New API key" onClose={onClose}>
      <p class="dim">
        It keeps the rights that you have now, and may never do more than you may. It ends when you
        are disabled or deleted.
      </p>
      <Form verb="Create the key" onSubmit={make} onCancel={onClose}>
        {(error) => (
          <>
            <NameField name={name} onChange={setName} error={error} hint="Such as ben-laptop" />
            <Field label="Expires" fault={faultOf(error, "/expires_at")}>
              <select
                class="input"
                value={days}
                onChange={(event) => setDays(event.currentTarget.value)}
              >
                {DAYS.map((one) => (
                  <option key={one} value={String(one)}>
                    in {one} days
                  </option>
                ))}
                <option value="">never</option>
              </select>
            </Field>
          </>
        )}
      </Form>
    </Dialog>
  );
}
