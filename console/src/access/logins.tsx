/** Where somebody is logged in, for administrators. */
import { ask } from "../api/ask.ts";
import { useAttempt } from "../parts/attempt.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useResource } from "../state/resource.ts";
import "../style/access.css";

interface LoginsProps {
  name: string;
  /** A user of opsjobs, or a person of the single sign-on. */
  kind: "user" | "external";
  onClose: () => void;
}

export function Logins({ name, kind, onClose }: LoginsProps) {
  const query = { user: name, kind };
  const logins = useResource(
    (signal) => ask("GET /auth/sessions", { query, signal }),
    [name, kind],
  );
  const none = logins.data.value?.items.length === 0;
  const { busy, trouble, attempt } = useAttempt();
  const endAll = () =>
    attempt(async () => {
      await ask("DELETE /auth/sessions", { query });
      await logins.reload();
    });
  return (
    <Dialog title={`Logins of ${name}`} onClose={onClose} wide>
      <Loaded resource={logins} what="logins">
        {({ items }) =>
          items.length ? (
            <ul class="decisions">
              {items.map((login) => (
                <li key={login.id}>
                  <b>{login.kind === "browser" ? "Browser" : "Program"}</b> from{" "}
                  {login.address ?? "an unknown address"}, used <Time at={login.last_used_at} ago />{" "}
                  <span class="small dim">
                    <Text of={login.agent ?? ""} />
                  </span>
                </li>
              ))}
            </ul>
          ) : (
            <Empty why={`${name} is not logged in anywhere.`} />
          )
        }
      </Loaded>
      {trouble}
      <div class="actions">
        <button
          type="button"
          class="button danger"
          disabled={none || busy}
          aria-busy={busy}
          onClick={() => void endAll()}
        >
          End all
        </button>
        <button type="button" class="button" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
