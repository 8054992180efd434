/** New targets: one by a form, many as lines. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Import, TargetDraft } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Field, Form, faultOf, NameField } from "../parts/form.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { go } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { askIf, mayDoEverywhere } from "../state/rights.ts";
import { parseEntries, parseLabels } from "./entries.ts";

const LABELS_HINT = "Such as env=prod, role=web";
const PORT = 22;

export function AddTarget({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [host, setHost] = useState("");
  const [port, setPort] = useState(String(PORT));
  const [labels, setLabels] = useState("");
  const [credential, setCredential] = useState("");
  const named = parseLabels(labels);
  const add = async () => {
    const body: TargetDraft = {
      name,
      host,
      port: Number(port) || PORT,
      labels: named ?? {},
      ...(credential && { credential }),
    };
    const added = await ask("POST /targets", { body });
    toast(`${added.name} was added. Test it and compare its host keys.`);
    go(`/targets/${encodeURIComponent(added.name)}`);
  };
  return (
    <Dialog title="Add a target" onClose={onClose}>
      <Form verb="Add" onSubmit={add} onCancel={onClose} disabled={named === null}>
        {(error) => (
          <>
            <NameField name={name} onChange={setName} error={error} hint="Such as web-1" />
            <Field label="Host" hint="Name or address" fault={faultOf(error, "/host")}>
              <input
                class="input"
                required
                autoComplete="off"
                value={host}
                onInput={(event) => setHost(event.currentTarget.value)}
              />
            </Field>
            <Field label="Port" fault={faultOf(error, "/port")}>
              <input
                class="input"
                inputMode="numeric"
                value={port}
                onInput={(event) => setPort(event.currentTarget.value)}
              />
            </Field>
            <CredentialField
              value={credential}
              onChange={setCredential}
              fault={faultOf(error, "/credential")}
            />
            <Field
              label="Labels"
              hint={LABELS_HINT}
              fault={
                named === null ? `Write key=value. ${LABELS_HINT}.` : faultOf(error, "/labels")
              }
            >
              <input
                class="input mono"
                autoComplete="off"
                value={labels}
                onInput={(event) => setLabels(event.currentTarget.value)}
              />
            </Field>
          </>
        )}
      </Form>
    </Dialog>
  );
}

interface CredentialFieldProps {
  value: string;
  onChange: (name: string) => void;
  fault?: string | null;
}

/** The login, for those who may name one. */
function CredentialField({ value, onChange, fault }: CredentialFieldProps) {
  const permitted = mayDoEverywhere("credentials:use");
  const found = useResource(
    (signal) => askIf(permitted, () => ask("GET /credentials", { query: { limit: 200 }, signal })),
    [],
  );
  if (!permitted) return null;
  const logins = (found.data.value?.items ?? []).filter((one) => one.type !== "secret");
  return (
    <Field label="Credential" hint="What opsjobs logs in with" fault={fault}>
      <select class="input" value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        <option value="">None</option>
        {logins.map((one) => (
          <option key={one.id} value={one.name}>
            {one.name}
          </option>
        ))}
      </select>
    </Field>
  );
}

const SAMPLE = "web-1 10.0.0.5 env=prod role=web\nweb-2 10.0.0.6:2222 env=prod role=web";

export function ImportTargets({ onClose }: { onClose: () => void }) {
  const [text, setText] = useState("");
  const [credential, setCredential] = useState("");
  const [outcome, setOutcome] = useState<Import | null>(null);
  const { entries, wrong } = parseEntries(text);
  const fault = wrong.length
    ? `Line ${wrong.join(", ")}: write a name, a host, then labels.`
    : null;
  const send = async () => {
    const targets = entries.map((entry) => ({ ...entry, ...(credential && { credential }) }));
    setOutcome(await ask("POST /targets/import", { body: { targets } }));
  };
  if (outcome) return <ImportOutcome outcome={outcome} onClose={onClose} />;
  return (
    <Dialog title="Import targets" onClose={onClose} wide>
      <Form
        verb={`Import ${entries.length}`}
        onSubmit={send}
        onCancel={onClose}
        disabled={entries.length === 0 || fault !== null}
      >
        {() => (
          <>
            <Field
              label="One target on each line"
              hint="Name, host, labels. A target that exists keeps what its line does not mention."
              fault={fault}
            >
              <textarea
                class="input"
                rows={10}
                spellcheck={false}
                placeholder={SAMPLE}
                value={text}
                onInput={(event) => setText(event.currentTarget.value)}
              />
            </Field>
            <CredentialField value={credential} onChange={setCredential} />
            <p class="dim">
              Inventories of Ansible, SSH configurations and CSV files:{" "}
              <code>opsjobs targets import FILE</code>
            </p>
          </>
        )}
      </Form>
    </Dialog>
  );
}

function ImportOutcome({ outcome, onClose }: { outcome: Import; onClose: () => void }) {
  const { created, updated, unchanged } = outcome;
  const refused = outcome.items.filter((one) => one.error !== null);
  return (
    <Dialog title="Imported" onClose={onClose}>
      <p>
        {created} created, {updated} updated, {unchanged} unchanged, {refused.length} refused.
      </p>
      {refused.length > 0 && (
        <ul class="stack-tight" aria-label="Refused">
          {refused.map((one) => (
            <li key={one.position} class="tone bad">
              <b>
                <Text of={one.name} />
              </b>
              : <Text of={one.error?.message ?? ""} />
            </li>
          ))}
        </ul>
      )}
      <div class="actions">
        <button type="button" class="button primary" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
