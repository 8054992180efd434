/** The login, over the page that asked for it: what was there stays. */
import { useEffect, useState } from "preact/hooks";
import { type Answer, ask } from "../api/ask.ts";
import { login } from "../state/session.ts";
import { Dialog } from "./dialog.tsx";
import { Field, Form } from "./form.tsx";

export function LoginDialog() {
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  const [methods, setMethods] = useState<Answer<"GET /auth/methods"> | null>(null);
  useEffect(() => {
    // Without an answer the form is shown: its own attempt says what is wrong.
    ask("GET /auth/methods").then(setMethods, () => {});
  }, []);
  const hint = (
    <p class="small dim">
      On the machine of the service, <code>opsjobs console</code> opens an address that logs you in
      once.
    </p>
  );
  if (methods?.password === false)
    return (
      <Dialog title="Log in to opsjobs" onClose={() => {}}>
        <p>There is no user with a password yet.</p>
        {hint}
      </Dialog>
    );
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
            {hint}
          </>
        )}
      </Form>
    </Dialog>
  );
}
