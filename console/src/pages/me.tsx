/** My account: who am I here, where am I logged in, which keys are mine? */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { ApiKey, Login } from "../api/types.ts";
import { NewKeyDialog } from "../access/new-key.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Form } from "../parts/form.tsx";
import { HiddenUsername, Password } from "../parts/login.tsx";
import { Panel } from "../parts/panel.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { type Resource, useResource } from "../state/resource.ts";
import { changePassword, me } from "../state/session.ts";
import "../style/access.css";

const KINDS: Readonly<Record<string, string>> = {
  user: "user",
  api_key: "API key",
  external: "person of the single sign-on",
  service: "service",
};
const WITHOUT_A_PASSWORD: Readonly<Record<string, string>> = {
  api_key: "An API key has no password and no keys of its own. Log in as a user to have both.",
  external:
    "Your password and your roles are kept by the single sign-on. Roles that change there hold here from your next login on. Only users have API keys of their own.",
};

export default function MyAccount() {
  const caller = me.value!;
  const isUser = caller.kind === "user";
  const external = caller.session?.external ?? null;
  return (
    <div class="stack">
      <div class="head">
        <h1>
          <Text of={caller.name} />
        </h1>
        <span class="dim">
          {KINDS[caller.kind]}
          {external?.name && (
            <>
              {" · "}
              <Text of={external.name} />
            </>
          )}
          {external?.email && (
            <>
              {" · "}
              <Text of={external.email} />
            </>
          )}
          {caller.roles.length > 0 && ` · ${caller.roles.join(", ")}`}
        </span>
      </div>
      <Permissions />
      <Logins />
      {isUser ? (
        <>
          <Keys />
          <OwnPassword />
        </>
      ) : (
        <Empty why={WITHOUT_A_PASSWORD[caller.kind] ?? ""} />
      )}
    </div>
  );
}

function Permissions() {
  const held = Object.entries(me.value!.permissions);
  return (
    <Panel title="Your permissions">
      {held.length ? (
        <ul class="permissions">
          {held.map(([permission, scopes]) => (
            <li key={permission}>
              <code>{permission}</code>{" "}
              <span class="small dim">
                {scopes.includes("") ? "everywhere" : <Text of={scopes.join(" or ")} />}
              </span>
            </li>
          ))}
        </ul>
      ) : (
        <Empty why="You have no permissions yet. Ask an administrator for a role." />
      )}
    </Panel>
  );
}

function Logins() {
  const logins = useResource((signal) => ask("GET /auth/sessions", { signal }), [], 60);
  const [ending, setEnding] = useState<Login | "others" | null>(null);
  const end = async () => {
    if (ending === "others") await ask("DELETE /auth/sessions", {});
    else if (ending) await ask("DELETE /auth/sessions/{id}", { path: { id: ending.id } });
    toast("Ended.");
    await logins.reload();
  };
  return (
    <Panel
      title="Your logins"
      flush
      actions={
        (logins.data.value?.items.length ?? 0) > 1 && (
          <button type="button" class="button small" onClick={() => setEnding("others")}>
            End all others …
          </button>
        )
      }
    >
      <Loaded resource={logins} what="logins">
        {({ items }) =>
          items.length ? (
            <Table
              label="Logins"
              columns={loginColumns(setEnding)}
              rows={items}
              keyOf={(login) => login.id}
            />
          ) : (
            <Empty why="No logins: this session uses a token." />
          )
        }
      </Loaded>
      {ending && (
        <Confirm
          title={ending === "others" ? "End all other logins?" : "End this login?"}
          verb="End"
          danger
          onConfirm={end}
          onClose={() => setEnding(null)}
        >
          <p>
            {ending === "others"
              ? "Every other browser and program that is logged in as you is refused from now on."
              : "That browser or program is refused from now on, and has to log in again."}
          </p>
        </Confirm>
      )}
    </Panel>
  );
}

function loginColumns(onEnd: (login: Login) => void): Column<Login>[] {
  return [
    {
      name: "where",
      label: "Where",
      width: "minmax(200px, 3fr)",
      cell: (login) => (
        <>
          {login.kind === "browser" ? "Browser" : "Program"}
          {login.current && <b> · this one</b>}{" "}
          <span class="small dim">
            <Text of={login.agent ?? ""} />
          </span>
        </>
      ),
    },
    {
      name: "address",
      label: "Address",
      width: "minmax(120px, 1fr)",
      cell: (login) => login.address ?? "–",
    },
    {
      name: "used",
      label: "Last used",
      width: "120px",
      cell: (login) => <Time at={login.last_used_at} ago />,
    },
    {
      name: "until",
      label: "At most until",
      width: "160px",
      cell: (login) => <Time at={login.expires_at} />,
    },
    {
      name: "end",
      label: "Actions",
      bare: true,
      width: "90px",
      end: true,
      cell: (login) =>
        !login.current && (
          <button type="button" class="button small" onClick={() => onEnd(login)}>
            End …
          </button>
        ),
    },
  ];
}

function Keys() {
  const keys = useResource((signal) => ask("GET /auth/keys", { signal }), []);
  const [making, setMaking] = useState(false);
  const [deleting, setDeleting] = useState<ApiKey | null>(null);
  return (
    <Panel
      title="Your API keys"
      flush
      actions={
        <button type="button" class="button small" onClick={() => setMaking(true)}>
          New key …
        </button>
      }
    >
      <Loaded resource={keys} what="keys">
        {({ items }) =>
          items.length ? (
            <Table
              label="Your API keys"
              columns={keyColumns(setDeleting)}
              rows={items}
              keyOf={(key) => String(key.id)}
            />
          ) : (
            <Empty why="You have no API keys. A script that acts for you needs one." />
          )
        }
      </Loaded>
      {making && (
        <NewKeyDialog onClose={() => setMaking(false)} onMade={() => void keys.reload()} />
      )}
      {deleting && <DeleteKey of={deleting} keys={keys} onClose={() => setDeleting(null)} />}
    </Panel>
  );
}

interface DeleteKeyProps {
  of: ApiKey;
  keys: Resource<unknown>;
  onClose: () => void;
}

function DeleteKey({ of, keys, onClose }: DeleteKeyProps) {
  return (
    <Confirm
      title={`Delete the key ${of.name}?`}
      verb="Delete"
      danger
      onClose={onClose}
      onConfirm={async () => {
        await ask("DELETE /auth/keys/{id}", { path: { id: String(of.id) } });
        toast(`Deleted: ${of.name}`);
        await keys.reload();
      }}
    >
      <p>
        Programs that use it are refused from now on, and its name cannot be given again. Last used:{" "}
        <Time at={of.last_used_at} ago />.
      </p>
    </Confirm>
  );
}

function keyColumns(onDelete: (key: ApiKey) => void): Column<ApiKey>[] {
  return [
    {
      name: "name",
      label: "Key",
      width: "minmax(140px, 2fr)",
      cell: (key) => (
        <b>
          <Text of={key.name} />
        </b>
      ),
    },
    {
      name: "used",
      label: "Last used",
      width: "minmax(110px, 1fr)",
      cell: (key) => <Time at={key.last_used_at} ago />,
    },
    {
      name: "until",
      label: "Expires",
      width: "minmax(140px, 1fr)",
      cell: (key) => (key.expires_at ? <Time at={key.expires_at} /> : "never"),
    },
    {
      name: "delete",
      label: "Actions",
      bare: true,
      width: "100px",
      end: true,
      cell: (key) => (
        <button type="button" class="button small" onClick={() => onDelete(key)}>
          Delete …
        </button>
      ),
    },
  ];
}

function OwnPassword() {
  const [current, setCurrent] = useState("");
  const [password, setPassword] = useState("");
  return (
    <Panel title="Password">
      <div class="narrow">
        <p class="dim">A new password ends all your logins, this one, too.</p>
        <Form verb="Change the password" onSubmit={() => changePassword(current, password)}>
          {() => (
            <>
              <HiddenUsername />
              <Password label="Current password" value={current} onInput={setCurrent} />
              <Password label="New password" value={password} onInput={setPassword} isNew />
            </>
          )}
        </Form>
      </div>
    </Panel>
  );
}
