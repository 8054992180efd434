/** The login, and the proof that it is still you: over the page, so what was there stays. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { proofGate } from "../state/login.ts";
import { useResource } from "../state/resource.ts";
import { codeOf, confirmSession, login, me } from "../state/session.ts";
import { Dialog } from "./dialog.tsx";
import { Field, Form } from "./form.tsx";

const HOW_TO_GET_A_CODE = (
  <>
    <code>opsjobs console --print</code> on a machine where you use the command prints an address
    with a code. It works once, for a minute.
  </>
);

export function LoginDialog() {
  const methods = useResource((signal) => ask("GET /auth/methods", { signal }), []);
  const [byCode, setByCode] = useState(false);
  const found = methods.data.value;
  // Without users, as after `opsjobs up`, there is no password to ask for.
  const code = byCode || found?.password === false;
  return (
    // It cannot be closed: the page behind it has nothing without a login.
    <Dialog title="Log in to opsjobs" onClose={() => {}}>
      {code ? (
        <CodeForm verb="Log in" onCode={(given) => login({ code: given })} />
      ) : (
        <PasswordForm />
      )}
      {found?.password && (
        <p>
          <button type="button" class="button plain" onClick={() => setByCode(!byCode)}>
            {byCode ? "Log in with a password" : "Log in with a code"}
          </button>
        </p>
      )}
    </Dialog>
  );
}

function PasswordForm() {
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  return (
    <Form verb="Log in" onSubmit={() => login({ username, password })}>
      {() => (
        <>
          <Field label="Name">
            <input
              class="input"
              name="username"
              autoComplete="username"
              autoCapitalize="none"
              required
              value={username}
              onInput={(event) => setUsername(event.currentTarget.value)}
            />
          </Field>
          <Password label="Password" value={password} onInput={setPassword} />
        </>
      )}
    </Form>
  );
}

/** Tells password managers whose password a form asks for. */
export function HiddenUsername() {
  return (
    <input
      type="text"
      name="username"
      autoComplete="username"
      value={me.value?.name ?? ""}
      readOnly
      hidden
    />
  );
}

interface PasswordProps {
  label: string;
  value: string;
  onInput: (value: string) => void;
  /** A new one, which a password manager may make. */
  isNew?: boolean;
  fault?: string | null;
}

export function Password({ label, value, onInput, isNew = false, fault }: PasswordProps) {
  return (
    <Field label={label} fault={fault} hint={isNew ? "At least 12 characters." : undefined}>
      <input
        class="input"
        name={isNew ? "new-password" : "password"}
        type="password"
        autoComplete={isNew ? "new-password" : "current-password"}
        required
        value={value}
        onInput={(event) => onInput(event.currentTarget.value)}
      />
    </Field>
  );
}

interface CodeFormProps {
  verb: string;
  onCode: (code: string) => Promise<void>;
  onCancel?: () => void;
}

function CodeForm({ verb, onCode, onCancel }: CodeFormProps) {
  const [pasted, setPasted] = useState("");
  return (
    <Form verb={verb} onSubmit={() => onCode(codeOf(pasted))} {...(onCancel && { onCancel })}>
      {() => (
        <Field label="Code, or the address with it" hint={HOW_TO_GET_A_CODE}>
          <input
            class="input mono"
            name="code"
            autoComplete="one-time-code"
            spellcheck={false}
            required
            value={pasted}
            onInput={(event) => setPasted(event.currentTarget.value)}
          />
        </Field>
      )}
    </Form>
  );
}

/** Asks for the password, or a new code, before a sensitive change. */
export function ProofDialog() {
  const [password, setPassword] = useState("");
  const onClose = () => proofGate.close({ passed: false });
  return (
    <Dialog title="Is it still you?" onClose={onClose}>
      <p class="dim">
        Your last login was over 10 minutes ago, and this changes credentials, people or keys, or
        overrides the safety check.
      </p>
      {me.value?.session?.confirm_by === "code" ? (
        <CodeForm verb="Go on" onCode={(code) => confirmSession({ code })} onCancel={onClose} />
      ) : (
        <Form verb="Go on" onSubmit={() => confirmSession({ password })} onCancel={onClose}>
          {() => (
            <>
              <HiddenUsername />
              <Password
                label={`Password of ${me.value?.name}`}
                value={password}
                onInput={setPassword}
              />
            </>
          )}
        </Form>
      )}
    </Dialog>
  );
}
