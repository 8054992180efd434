/** Users that are kept here. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { asRead } from "../api/stale.ts";
import type { User } from "../api/types.ts";
import { useAttempt } from "../parts/attempt.tsx";
import { Confirm, Dialog } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Field, Form, faultOf, NameField } from "../parts/form.tsx";
import { Menu } from "../parts/menu.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useListing } from "../state/listing.ts";
import { me } from "../state/session.ts";
import { GrantForm, Grants, grantsOf, NEW_GRANT, fieldsOf } from "./grants.tsx";
import { Logins } from "./logins.tsx";

type Open = { what: "add" } | { what: "change" | "logins" | "delete"; user: User } | null;

export function Users() {
  const list = useListing(
    (cursor, signal) => ask("GET /users", { query: { cursor, limit: 100 }, signal }),
    [],
  );
  const [open, setOpen] = useState<Open>(null);
  const close = () => setOpen(null);
  const closeAndReload = () => {
    close();
    void list.restart();
  };
  const { trouble, attempt } = useAttempt();
  const toggle = (user: User) =>
    attempt(async () => {
      const path = { id: String(user.id) };
      await (user.disabled
        ? ask("POST /users/{id}/enable", { path })
        : ask("POST /users/{id}/disable", { path }));
      toast(`${user.name} is ${user.disabled ? "enabled" : "disabled: all logins have ended"}`);
      await list.restart();
    });
  const columns = columnsOf(setOpen, toggle);
  return (
    <Panel
      title="Users"
      actions={
        <button type="button" class="button small" onClick={() => setOpen({ what: "add" })}>
          New user …
        </button>
      }
      flush
    >
      {trouble}
      <Loaded resource={list} what="users">
        {({ items }) =>
          items.length ? (
            <Table
              label="Users"
              columns={columns}
              rows={items}
              keyOf={(user) => String(user.id)}
              onOpen={(user) => setOpen({ what: "change", user })}
              onMore={list.more}
              width={640}
            />
          ) : (
            <Empty why="There are no users with a password yet. People may also use single sign-on or API keys." />
          )
        }
      </Loaded>
      {open?.what === "add" && <UserDialog user={null} onClose={closeAndReload} />}
      {open?.what === "change" && <UserDialog user={open.user} onClose={closeAndReload} />}
      {open?.what === "logins" && <Logins name={open.user.name} kind="user" onClose={close} />}
      {open?.what === "delete" && (
        <Confirm
          title={`Delete ${open.user.name}?`}
          verb="Delete"
          danger
          onClose={close}
          onConfirm={async () => {
            await ask("DELETE /users/{id}", { path: { id: String(open.user.id) } });
            toast(`Deleted: ${open.user.name}`);
            await list.restart();
          }}
        >
          <p>All logins end. What the user owns stays, and its schedules are paused.</p>
        </Confirm>
      )}
    </Panel>
  );
}

function columnsOf(
  setOpen: (open: Open) => void,
  toggle: (user: User) => Promise<void>,
): readonly Column<User>[] {
  return [
    {
      name: "name",
      label: "Name",
      width: "minmax(140px, 1fr)",
      cell: (user) => (
        <span class="row">
          <Status state={user.disabled ? "disabled" : "active"} label="" />
          <Text of={user.name} />
          {user.disabled && <span class="dim">disabled</span>}
        </span>
      ),
    },
    {
      name: "grants",
      label: "Permissions",
      width: "minmax(160px, 2fr)",
      cell: (user) => <Grants grants={user.grants} />,
    },
    {
      name: "login",
      label: "Last login",
      width: "140px",
      cell: (user) => <Time at={user.last_login_at} ago />,
    },
    {
      name: "actions",
      label: "Actions",
      bare: true,
      width: "112px",
      cell: (user) => {
        const own = user.name === me.value?.name ? "This is your own account." : null;
        return (
          <Menu
            label="Actions"
            name={`Actions of ${user.name}`}
            kind="small"
            items={[
              { label: "Change …", onChoose: () => setOpen({ what: "change", user }) },
              { label: "Logins …", onChoose: () => setOpen({ what: "logins", user }) },
              {
                label: user.disabled ? "Enable" : "Disable",
                why: own,
                onChoose: () => void toggle(user),
              },
              null,
              {
                label: "Delete …",
                why: own,
                onChoose: () => setOpen({ what: "delete", user }),
              },
            ]}
          />
        );
      },
    },
  ];
}

interface UserDialogProps {
  /** Null: a new one. */
  user: User | null;
  onClose: () => void;
}

function UserDialog({ user, onClose }: UserDialogProps) {
  const first = user?.grants[0];
  const held = first && fieldsOf(first);
  const [name, setName] = useState(user?.name ?? "");
  const [password, setPassword] = useState("");
  const [fields, setFields] = useState(held ?? NEW_GRANT);
  // Single permissions are edited with the command; here they stay as they are.
  const own = held === null;
  const grants =
    own && user ? grantsOf(fields, user.grants).slice(1) : grantsOf(fields, user?.grants.slice(1));
  const save = async () => {
    if (user) {
      const given = { name, grants, disabled: user.disabled, password: password || null };
      const body = { ...given, ...asRead(user) };
      await ask("PUT /users/{id}", { path: { id: String(user.id) }, body });
    } else await ask("POST /users", { body: { name, password, grants } });
    toast(user ? `${name} is changed` : `${name} can log in`);
    onClose();
  };
  return (
    <Dialog title={user ? `Change ${user.name}` : "New user"} onClose={onClose}>
      <Form verb={user ? "Change" : "Add"} onSubmit={save} onCancel={onClose}>
        {(error) => (
          <>
            {!user && <NameField name={name} onChange={setName} error={error} />}
            <Field
              label={user ? "New password" : "Password"}
              hint={
                user
                  ? "Leave empty to keep it. A new password ends all logins."
                  : "At least 12 characters"
              }
              fault={faultOf(error, "/password")}
            >
              <input
                class="input"
                type="password"
                autoComplete="new-password"
                required={!user}
                value={password}
                onInput={(event) => setPassword(event.currentTarget.value)}
              />
            </Field>
            {own ? (
              <p>
                Permissions: <Grants grants={user?.grants ?? []} />. Single permissions are changed
                with <code>opsjobs users set</code>.
              </p>
            ) : (
              <GrantForm fields={fields} onChange={setFields} />
            )}
            {!own && user && user.grants.length > 1 && (
              <p>
                Kept as well: <Grants grants={user.grants.slice(1)} />.
              </p>
            )}
          </>
        )}
      </Form>
    </Dialog>
  );
}
