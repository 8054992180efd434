/** API keys: made, shown once, revoked. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { ApiKey } from "../api/types.ts";
import { Confirm, Dialog } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Field, Form, faultOf, NameField } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { SecretOnce } from "../parts/secret-once.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useListing } from "../state/listing.ts";
import { GrantForm, Grants, grantsOf, NEW_GRANT } from "./grants.tsx";

const DAY_MS = 86_400_000;

export function Keys() {
  const list = useListing(
    (cursor, signal) => ask("GET /api-keys", { query: { cursor, limit: 100 }, signal }),
    [],
  );
  const [adding, setAdding] = useState(false);
  const [revoked, setRevoked] = useState<ApiKey | null>(null);
  const columns: readonly Column<ApiKey>[] = [
    ...COLUMNS,
    {
      name: "actions",
      label: "Actions",
      bare: true,
      width: "124px",
      cell: (key) => (
        <button
          type="button"
          class="button small danger"
          aria-label={`Revoke ${key.name}`}
          onClick={() => setRevoked(key)}
        >
          Revoke …
        </button>
      ),
    },
  ];
  return (
    <Panel
      title="API keys"
      actions={
        <button type="button" class="button small" onClick={() => setAdding(true)}>
          New key …
        </button>
      }
      flush
    >
      <Loaded resource={list} what="keys">
        {({ items }) =>
          items.length ? (
            <Table
              label="API keys"
              columns={columns}
              rows={items}
              keyOf={(key) => String(key.id)}
              onMore={list.more}
              width={784}
            />
          ) : (
            <Empty why="There are no API keys yet. Programs log in with one." />
          )
        }
      </Loaded>
      {adding && <NewKey onDone={list.restart} onClose={() => setAdding(false)} />}
      {revoked && (
        <Confirm
          title={`Revoke ${revoked.name}?`}
          verb="Revoke"
          danger
          onClose={() => setRevoked(null)}
          onConfirm={async () => {
            await ask("DELETE /api-keys/{id}", { path: { id: String(revoked.id) } });
            toast(`Revoked: ${revoked.name}`);
            await list.restart();
          }}
        >
          <p>
            It was last used <Time at={revoked.last_used_at} ago />. What uses it is refused at
            once.
          </p>
        </Confirm>
      )}
    </Panel>
  );
}

const COLUMNS: readonly Column<ApiKey>[] = [
  {
    name: "name",
    label: "Name",
    width: "minmax(120px, 1fr)",
    cell: (key) => <Text of={key.name} />,
  },
  {
    name: "grants",
    label: "Permissions",
    width: "minmax(140px, 2fr)",
    cell: (key) => <Grants grants={key.grants} />,
  },
  {
    name: "person",
    label: "Person",
    width: "minmax(80px, 1fr)",
    cell: (key) => key.person ?? key.made_by ?? "–",
  },
  {
    name: "used",
    label: "Last used",
    width: "110px",
    cell: (key) => <Time at={key.last_used_at} ago />,
  },
  {
    name: "expires",
    label: "Expires",
    width: "110px",
    cell: (key) => (key.expires_at ? <Time at={key.expires_at} ago /> : "never"),
  },
];

function NewKey({ onDone, onClose }: { onDone: () => Promise<void>; onClose: () => void }) {
  const [name, setName] = useState("");
  const [days, setDays] = useState("90");
  const [fields, setFields] = useState(NEW_GRANT);
  const [token, setToken] = useState<string | null>(null);
  const make = async () => {
    const expires_at = days ? new Date(Date.now() + Number(days) * DAY_MS).toISOString() : null;
    const body = { name, grants: grantsOf(fields), expires_at };
    const made = await ask("POST /api-keys", { body });
    setToken(made.token ?? null);
    await onDone();
  };
  if (token)
    return (
      <SecretOnce title={`Key ${name}`} secret={token} what="key" onClose={onClose}>
        Anyone who has it acts as {name}.
      </SecretOnce>
    );
  return (
    <Dialog title="Create an API key" onClose={onClose}>
      <Form verb="Create" onSubmit={make} onCancel={onClose}>
        {(error) => (
          <>
            <NameField name={name} onChange={setName} error={error} />
            <GrantForm fields={fields} onChange={setFields} />
            <Field
              label="Days until it expires"
              hint="Empty: never"
              fault={faultOf(error, "/expires_at")}
            >
              <input
                class="input"
                type="number"
                min={1}
                max={3650}
                value={days}
                onInput={(event) => setDays(event.currentTarget.value)}
              />
            </Field>
          </>
        )}
      </Form>
    </Dialog>
  );
}
