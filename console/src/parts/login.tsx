/** The login, over the page that asked for it: what was there stays. */
import { useState } from "preact/hooks";
import { login } from "../state/session.ts";
import { Dialog } from "./dialog.tsx";
import { Field, Form } from "./form.tsx";

export function LoginDialog() {
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  return (
    // It cannot be closed: the page behind it has nothing without a login.
    <Dialog title="Log in to opsjobs" onClose={() => {}}>
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
            <Field label="Password">
              <input
                class="input"
                name="password"
                type="password"
                autoComplete="current-password"
                required
                value={password}
                onInput={(event) => setPassword(event.currentTarget.value)}
              />
            </Field>
            <p class="small dim">
              The first login: <code>opsjobs console</code> on the machine of the service prints an
              address that logs you in once.
            </p>
          </>
        )}
      </Form>
    </Dialog>
  );
}
