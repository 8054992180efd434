/** A new trigger of a job, or a changed one: a URL that launches it. */
import { useState } from "preact/hooks";
import { ask, type RequestError } from "../api/ask.ts";
import type { Job, ParameterDraft, Trigger } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import {
  Check,
  faultIn,
  faultOf,
  Field,
  Form,
  NameField,
  Select,
  TextField,
} from "../parts/form.tsx";
import { toast } from "../parts/toast.tsx";
import {
  type Condition,
  draftOf,
  fieldsOf,
  SOURCES,
  type Source,
  TESTS,
  type TriggerFields,
  VERIFICATIONS,
} from "./draft.ts";
import { TriggerSecret } from "./secret.tsx";
import "../style/forms.css";

const CONDITIONS_MAX = 20;

interface TriggerFormProps {
  job: Pick<Job, "id" | "name" | "parameters">;
  /** Null: a new one. */
  trigger: Trigger | null;
  onDone: (trigger: Trigger) => void;
  onClose: () => void;
}

export function TriggerForm({ job, trigger, onDone, onClose }: TriggerFormProps) {
  // As it was when the form opened.
  const [stored] = useState(trigger);
  const [fields, setFields] = useState(() => fieldsOf(stored));
  const [made, setMade] = useState<{ trigger: Trigger; secret: string } | null>(null);
  const change = (some: Partial<TriggerFields>) => setFields({ ...fields, ...some });
  const asked = job.parameters.filter((one) => !one.from_credential);
  const save = async () => {
    const body = draftOf(fields, asked, stored);
    if (stored) {
      onDone(await ask("PUT /triggers/{id}", { path: { id: String(stored.id) }, body }));
      return toast(`${body.name} was changed`);
    }
    const answer = await ask("POST /jobs/{id}/triggers", { path: { id: String(job.id) }, body });
    const { secret, ...shown } = answer;
    setMade({ trigger: shown, secret: secret ?? "" });
  };
  if (made) return <TriggerSecret {...made} onClose={() => onDone(made.trigger)} />;
  return (
    <Dialog
      title={stored ? `Change ${stored.name}` : `New trigger of ${job.name}`}
      wide
      onClose={onClose}
    >
      <Form verb={stored ? "Save" : "Create the trigger"} onSubmit={save} onCancel={onClose}>
        {(error) => (
          <>
            <NameField name={fields.name} onChange={(name) => change({ name })} error={error} />
            <Field label="Callers send" fault={faultOf(error, "/verify")}>
              <Select
                of={VERIFICATIONS}
                value={fields.verify}
                onChange={(verify) => change({ verify })}
              />
            </Field>
            <Sources {...{ fields, asked, error }} onChange={change} />
            <Conditions {...{ fields, error }} onChange={change} />
            <div class="pair">
              <TextField
                label="Calls a minute, at most"
                value={fields.perMinute}
                onChange={(perMinute) => change({ perMinute })}
                fault={faultOf(error, "/max_calls_per_minute")}
              />
              <TextField
                label="Ends at"
                hint="Such as 2027-01-01T00:00:00Z; empty: never"
                value={fields.expiresAt}
                onChange={(expiresAt) => change({ expiresAt })}
                fault={faultOf(error, "/expires_at")}
              />
            </div>
            <TextField
              label="Description"
              value={fields.description}
              onChange={(description) => change({ description })}
              fault={faultOf(error, "/description")}
            />
            <Check
              label="Enabled"
              hint="Otherwise calls are answered as if it did not exist."
              checked={fields.enabled}
              onChange={(enabled) => change({ enabled })}
            />
            {stored && <p class="small dim">It launches the job in your name from then on.</p>}
          </>
        )}
      </Form>
    </Dialog>
  );
}

interface PartProps {
  fields: TriggerFields;
  error: RequestError | null;
  onChange: (some: Partial<TriggerFields>) => void;
}

/** Where each parameter of the job gets its value. */
function Sources({
  fields,
  asked,
  error,
  onChange,
}: PartProps & { asked: readonly ParameterDraft[] }) {
  const set = (name: string, some: Partial<Source>) => {
    const before = fields.sources[name] ?? { from: "none", text: "" };
    onChange({ sources: { ...fields.sources, [name]: { ...before, ...some } } });
  };
  return (
    <>
      {asked.map(({ name, required }) => {
        const source = fields.sources[name] ?? { from: "none", text: "" };
        const fault = faultIn(error, `/parameters/${name}`);
        return (
          <div key={name} class="pair">
            <Field label={`${name}${required ? " (required)" : ""} comes from`} fault={fault}>
              <Select of={SOURCES} value={source.from} onChange={(from) => set(name, { from })} />
            </Field>
            {source.from !== "none" && (
              <TextField
                label={HINTS[source.from].label}
                hint={HINTS[source.from].hint}
                mono
                required
                value={source.text}
                onChange={(text) => set(name, { text })}
              />
            )}
          </div>
        );
      })}
    </>
  );
}

const HINTS = {
  pointer: { label: "Place in the body", hint: "A JSON Pointer, such as /repository/name" },
  header: { label: "Header", hint: "Such as X-Request-Id" },
  value: { label: "Value", hint: "" },
} as const;

const ANY_OF = "Separated by commas; quote one that has a comma";

/** What a call has to meet; any other is answered, and launches nothing. */
function Conditions({ fields, error, onChange }: PartProps) {
  const { conditions } = fields;
  const set = (at: number, some: Partial<Condition>) =>
    onChange({ conditions: conditions.map((one, n) => (n === at ? { ...one, ...some } : one)) });
  return (
    <fieldset class="form conditions">
      <legend>Launches only if</legend>
      {conditions.length === 0 && <p class="dim">Every call with the secret launches the job.</p>}
      {conditions.map((condition, at) => (
        <div key={at} class="condition">
          <TextField
            label={`Place ${at + 1}`}
            hint="/ref in the body, or a header"
            mono
            required
            value={condition.place}
            onChange={(place) => set(at, { place })}
            fault={faultIn(error, `/when/${at}`)}
          />
          <Field label={`Test ${at + 1}`}>
            <Select of={TESTS} value={condition.test} onChange={(test) => set(at, { test })} />
          </Field>
          {condition.test !== "exists" && condition.test !== "missing" && (
            <TextField
              label={`Value ${at + 1}`}
              hint={condition.test === "any_of" ? ANY_OF : "refs/heads/main"}
              mono
              value={condition.text}
              onChange={(text) => set(at, { text })}
            />
          )}
          <button
            type="button"
            class="button small"
            aria-label={`Remove condition ${at + 1}`}
            onClick={() => onChange({ conditions: conditions.filter((_, n) => n !== at) })}
          >
            Remove
          </button>
        </div>
      ))}
      {conditions.length < CONDITIONS_MAX && (
        <div>
          <button
            type="button"
            class="button small"
            onClick={() =>
              onChange({ conditions: [...conditions, { place: "", test: "equals", text: "" }] })
            }
          >
            Add a condition
          </button>
        </div>
      )}
    </fieldset>
  );
}
