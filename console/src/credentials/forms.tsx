/** Forms of credentials. A secret is only ever written: no answer has it. */
import { useState } from "preact/hooks";
import { ask, type RequestError } from "../api/ask.ts";
import type { Credential, CredentialType } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Field, Form, faultOf, NameField } from "../parts/form.tsx";
import { toast } from "../parts/toast.tsx";
import {
  SECRET_FIELDS,
  type SecretField,
  type Secrets,
  secretsOf,
  TYPES,
  typeWords,
} from "./secrets.ts";

interface SecretInputsProps {
  type: CredentialType;
  secrets: Secrets;
  error: RequestError | null;
  onChange: (secrets: Secrets) => void;
}

function SecretInputs({ type, secrets, error, onChange }: SecretInputsProps) {
  const input = (field: SecretField) => {
    const common = {
      class: "input",
      autoComplete: "new-password",
      required: !field.optional,
      value: secrets[field.name] ?? "",
    } as const;
    const set = (value: string) => onChange({ ...secrets, [field.name]: value });
    return field.multiline ? (
      <textarea
        {...common}
        rows={5}
        spellcheck={false}
        onInput={(event) => set(event.currentTarget.value)}
      />
    ) : (
      <input {...common} type="password" onInput={(event) => set(event.currentTarget.value)} />
    );
  };
  return (
    <>
      {SECRET_FIELDS[type]?.map((field) => (
        <Field
          key={field.name}
          label={field.optional ? `${field.label} (optional)` : field.label}
          hint={field.hint}
          fault={faultOf(error, `/${field.name}`)}
        >
          {input(field)}
        </Field>
      ))}
    </>
  );
}

interface FormProps {
  onDone: (stored: { name: string }) => Promise<void> | void;
  onClose: () => void;
}

interface NewCredentialProps extends FormProps {
  /** Only logins, no secrets of jobs. */
  forLogins?: boolean;
}

export function NewCredential({ onDone, onClose, forLogins = false }: NewCredentialProps) {
  const [name, setName] = useState("");
  const [username, setUsername] = useState("");
  const [type, setType] = useState<CredentialType>("ssh_key");
  const [secrets, setSecrets] = useState<Secrets>({});
  const save = async () => {
    const login = type === "secret" ? null : username;
    await ask("POST /credentials", {
      body: { name, type, username: login, ...secretsOf(secrets) },
    });
    toast(`${name} is stored, encrypted`);
    await onDone({ name });
    onClose();
  };
  return (
    <Dialog title="New credential" onClose={onClose}>
      <Form verb="Add" onSubmit={save} onCancel={onClose}>
        {(error) => (
          <>
            <NameField name={name} hint="Such as web-key" onChange={setName} error={error} />
            <Field
              label="Type"
              hint="Certificates, Kerberos, agents and Vault: opsjobs credentials add --help"
            >
              <select
                class="input"
                value={type}
                onChange={(event) => {
                  setType(event.currentTarget.value as CredentialType);
                  setSecrets({});
                }}
              >
                {TYPES.filter((one) => !forLogins || one !== "secret").map((one) => (
                  <option key={one} value={one}>
                    {typeWords(one)}
                  </option>
                ))}
              </select>
            </Field>
            {type !== "secret" && (
              <Field
                label="Logs in as"
                hint="The user on the machine, such as deploy"
                fault={faultOf(error, "/username")}
              >
                <input
                  class="input"
                  autoComplete="off"
                  required
                  value={username}
                  onInput={(event) => setUsername(event.currentTarget.value)}
                />
              </Field>
            )}
            <SecretInputs type={type} secrets={secrets} error={error} onChange={setSecrets} />
          </>
        )}
      </Form>
    </Dialog>
  );
}

export function Rotate({ credential, onDone, onClose }: FormProps & { credential: Credential }) {
  const [secrets, setSecrets] = useState<Secrets>({});
  const save = async () => {
    await ask("POST /credentials/{id}/rotate", {
      path: { id: String(credential.id) },
      body: { ...secretsOf(secrets), version: credential.version },
    });
    toast(`${credential.name} has a new secret. Runs that begin from now on use it.`);
    await onDone(credential);
    onClose();
  };
  return (
    <Dialog title={`New secret for ${credential.name}`} onClose={onClose}>
      <Form verb="Replace" onSubmit={save} onCancel={onClose}>
        {(error) => (
          <SecretInputs
            type={credential.type}
            secrets={secrets}
            error={error}
            onChange={setSecrets}
          />
        )}
      </Form>
    </Dialog>
  );
}
