/** The login, and the proof that it is still you: over the page, so what was there stays. */
import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { proofGate } from "../state/login.ts";
import { useResource } from "../state/resource.ts";
import { loginProblem } from "../state/login-problem.ts";
import {
  codeOf,
  confirmSession,
  login,
  loggedOutFrom,
  me,
  resumeConfirmed,
  resumeLogin,
} from "../state/session.ts";
import { loginUrl, onLoginElsewhere, otherAddress } from "../state/single-sign-on.ts";
import { Dialog } from "./dialog.tsx";
import { Field, Form } from "./form.tsx";
import { Trouble } from "./trouble.tsx";

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
  const oidc = found?.oidc ?? null;
  // Without users, as after `opsjobs up`, there is no password to ask for.
  const byPassword = !byCode && found?.password !== false;
  const code = byCode || (!byPassword && oidc === null);
  return (
    // It cannot be closed: the page behind it has nothing without a login.
    <Dialog title="Log in to opsjobs" onClose={() => {}}>
      {loginProblem.value && <Trouble error={loginProblem.value} />}
      {oidc && <SingleSignOn label={oidc.label} url={oidc.url} />}
      {code && <CodeForm verb="Log in" onCode={(given) => login({ code: given })} />}
      {byPassword && <PasswordForm />}
      {(found?.password || (oidc && !byCode)) && (
        <p>
          <button type="button" class="button plain" onClick={() => setByCode(!byCode)}>
            {byCode ? "Log in with a password" : "Log in with a code"}
          </button>
        </p>
      )}
    </Dialog>
  );
}

/** Leads to the provider. A page that somebody was at work on stays: the login has its own tab. */
function SingleSignOn({ label, url }: { label: string; url: string }) {
  const isAtWork = me.value !== null;
  useEffect(() => (isAtWork ? onLoginElsewhere(() => void resumeLogin()) : undefined), [isAtWork]);
  return (
    <p>
      <a
        class="button primary"
        href={loginUrl(url, { inOwnTab: isAtWork })}
        target={isAtWork ? "_blank" : undefined}
        rel="noopener"
      >
        {label}
      </a>
      {isAtWork && <span class="small dim"> It opens in another tab. Then go on here.</span>}
    </p>
  );
}

/** A login that failed while the session goes on, such as a confirmation. */
export function LoginProblemDialog() {
  const close = () => {
    loginProblem.value = null;
  };
  return (
    <Dialog title="The login failed" onClose={close}>
      <Trouble error={loginProblem.value!} />
      <div class="actions">
        <button type="button" class="button primary" onClick={close}>
          Close
        </button>
      </div>
    </Dialog>
  );
}

/** After a logout here: the provider still knows this browser. */
export function LogoutDialog() {
  const stay = () => location.assign("/console/");
  return (
    <Dialog title="Logged out of opsjobs" onClose={stay}>
      <p>
        You are still logged in at the provider, so the next login here may ask you for nothing. On
        a computer that others use, log out there, too.
      </p>
      <div class="actions">
        <button type="button" class="button" onClick={stay}>
          Stay logged in there
        </button>
        <a class="button primary" href={loggedOutFrom.value!}>
          Log out there, too
        </a>
      </div>
    </Dialog>
  );
}

function PasswordForm() {
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  return (
    <Form verb="Log in" fleeting onSubmit={() => login({ username, password })}>
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
    <Form
      verb={verb}
      fleeting
      onSubmit={() => onCode(codeOf(pasted))}
      {...(onCancel && { onCancel })}
    >
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
    <Dialog title="Confirm that it is you" onClose={onClose}>
      <p class="dim">
        You last proved who you are over 10 minutes ago, and this changes credentials, people or
        keys, or overrides the safety check.
      </p>
      {me.value?.session?.confirm_by === "oidc" && <ProofElsewhere onCancel={onClose} />}
      {me.value?.session?.confirm_by === "code" && (
        <CodeForm verb="Go on" onCode={(code) => confirmSession({ code })} onCancel={onClose} />
      )}
      {me.value?.session?.confirm_by === "password" && (
        <Form
          verb="Go on"
          fleeting
          onSubmit={() => confirmSession({ password })}
          onCancel={onClose}
        >
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

/** The proof at the provider, in a tab of its own: what is typed here stays. */
function ProofElsewhere({ onCancel }: { onCancel: () => void }) {
  const methods = useResource((signal) => ask("GET /auth/methods", { signal }), []);
  useEffect(() => onLoginElsewhere(() => void resumeConfirmed()), []);
  const url = methods.data.value?.oidc?.url;
  // The session of this address is not known at that one: a login there cannot confirm it.
  const other = url ? otherAddress(url) : null;
  return (
    <>
      {other === null ? (
        <p>Log in at the provider again, in another tab. Then this goes on by itself.</p>
      ) : (
        <p>
          This cannot be confirmed at {location.origin}: logins at the provider end at {other}. Open{" "}
          <a href={`${other}/console/`}>the console there</a>, and make the change there.
        </p>
      )}
      <div class="actions">
        <button type="button" class="button" onClick={onCancel}>
          Go back
        </button>
        {url && other === null && (
          <a
            class="button primary"
            href={loginUrl(url, { inOwnTab: true, confirm: true })}
            target="_blank"
            rel="noopener"
          >
            Log in again
          </a>
        )}
      </div>
    </>
  );
}
