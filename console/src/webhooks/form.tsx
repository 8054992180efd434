/** A new webhook, or a changed one. Its secret is shown this once. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { asRead } from "../api/stale.ts";
import type { Webhook } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Check, faultIn, faultOf, Form, NameField, TextField } from "../parts/form.tsx";
import { ListField } from "../parts/picker.tsx";
import { SecretOnce } from "../parts/secret-once.tsx";
import { toast } from "../parts/toast.tsx";
import { listOf } from "../targets/draft.ts";

/** What is often wanted; any type of event, `noun.*` and `*` can be typed. */
const EVENTS = [
  ...["*", "execution.*", "execution.failed", "execution.partial", "execution.completed"],
  ...["approval.requested", "schedule.missed", "target_run.lost", "target_run.dead"],
  ...["circuit.opened", "worker.lost", "job.*", "schedule.*"],
];

interface WebhookFormProps {
  /** Null: a new one. */
  webhook: Webhook | null;
  onDone: (webhook: Webhook) => void;
  onClose: () => void;
}

export function WebhookForm({ webhook, onDone, onClose }: WebhookFormProps) {
  // As it was when the form opened.
  const [stored] = useState(webhook);
  const [name, setName] = useState(stored?.name ?? "");
  const [url, setUrl] = useState(stored?.url ?? "");
  const [events, setEvents] = useState((stored?.events ?? ["execution.failed"]).join(", "));
  const [selector, setSelector] = useState(stored?.selector ?? "");
  const [enabled, setEnabled] = useState(stored?.enabled ?? true);
  const [made, setMade] = useState<{ webhook: Webhook; secret: string } | null>(null);
  const save = async () => {
    const body = {
      name: name.trim(),
      url: url.trim(),
      events: listOf(events),
      selector: selector.trim() || null,
      enabled,
      ...(stored && asRead(stored)),
    };
    if (stored) {
      onDone(await ask("PUT /webhooks/{id}", { path: { id: String(stored.id) }, body }));
      return toast(`${body.name} was changed`);
    }
    const answer = await ask("POST /webhooks", { body });
    const { secret, ...shown } = answer;
    setMade({ webhook: shown, secret: secret ?? "" });
  };
  if (made)
    return (
      <SecretOnce
        title={`The secret of ${made.webhook.name}`}
        secret={made.secret}
        onClose={() => onDone(made.webhook)}
      >
        The receiver needs it to check that messages come from here.
      </SecretOnce>
    );
  return (
    <Dialog title={stored ? `Change ${stored.name}` : "New webhook"} onClose={onClose}>
      <Form verb={stored ? "Save" : "Create the webhook"} onSubmit={save} onCancel={onClose}>
        {(error) => (
          <>
            <NameField name={name} onChange={setName} error={error} />
            <TextField
              label="URL"
              hint="Each event is sent there by POST, signed"
              mono
              required
              value={url}
              onChange={setUrl}
              fault={faultOf(error, "/url")}
            />
            <ListField
              label="Events"
              hint="Types, separated by commas: execution.failed, job.*; * is every event"
              text={events}
              options={EVENTS}
              fault={faultIn(error, "/events")}
              onInput={setEvents}
            />
            <TextField
              label="Only objects with these labels"
              hint="Such as env=prod; empty: everything that you may see"
              mono
              value={selector}
              onChange={setSelector}
              fault={faultOf(error, "/selector")}
            />
            <Check
              label="Enabled"
              hint="Disabling it cancels what is still to be sent."
              checked={enabled}
              onChange={setEnabled}
            />
          </>
        )}
      </Form>
    </Dialog>
  );
}
