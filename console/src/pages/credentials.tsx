/** Credentials: with what do we log in? Secrets are written here and never shown. */
import { useEffect, useState } from "preact/hooks";
import { ask, RequestError } from "../api/ask.ts";
import type { Credential } from "../api/types.ts";
import { Details } from "../credentials/details.tsx";
import { NewCredential } from "../credentials/forms.tsx";
import { typeWords } from "../credentials/secrets.ts";
import { Command, Empty } from "../parts/empty.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast, toastError } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { useListing } from "../state/listing.ts";
import { mayDoEverywhere } from "../state/rights.ts";
import "../style/admin.css";

export default function Credentials() {
  const list = useListing(
    (cursor, signal) => ask("GET /credentials", { query: { cursor, limit: 100 }, signal }),
    [],
  );
  const [adding, setAdding] = useState(false);
  const shown = query.value.get("show");
  useNamed(query.value.get("name"));
  const add = mayDoEverywhere("credentials:manage") && (
    <button type="button" class="button" onClick={() => setAdding(true)}>
      New credential …
    </button>
  );
  return (
    <div class="stack">
      <div class="head">
        <h1>Credentials</h1>
        <div class="actions">{add}</div>
      </div>
      <Loaded resource={list} what="credentials">
        {({ items }) =>
          items.length ? (
            <Table
              label="Credentials"
              columns={COLUMNS}
              rows={items}
              keyOf={(one) => String(one.id)}
              onOpen={(one) => setQuery({ show: String(one.id) }, { replace: false })}
              onMore={list.more}
              width={620}
            />
          ) : (
            <Empty why="There are no credentials yet. opsjobs logs in to targets with them, and jobs get secrets from them.">
              {add}
              <Command text="opsjobs credentials add web-key -u deploy --key ~/.ssh/id_ed25519" />
            </Empty>
          )
        }
      </Loaded>
      {adding && <NewCredential onDone={list.restart} onClose={() => setAdding(false)} />}
      {shown && (
        <Details id={shown} onChanged={list.restart} onClose={() => setQuery({ show: null })} />
      )}
    </div>
  );
}

/** Show the credential of this name: other pages do not know its id. */
function useNamed(name: string | null): void {
  useEffect(() => {
    if (name === null) return;
    const request = new AbortController();
    const { signal } = request;
    ask("GET /credentials", { query: { name: [name], limit: 1 }, signal }).then(
      ({ items: [found] }) => {
        if (signal.aborted) return;
        if (!found) toast(`There is no credential ${name}.`, "bad");
        setQuery({ name: null, show: found ? String(found.id) : null });
      },
      (failed: unknown) => {
        if (signal.aborted) return;
        if (!(failed instanceof RequestError)) throw failed;
        toastError(failed);
      },
    );
    return () => request.abort();
  }, [name]);
}

const COLUMNS: readonly Column<Credential>[] = [
  {
    name: "name",
    label: "Name",
    width: "minmax(140px, 2fr)",
    cell: (one) => (
      <Link to={`/credentials?show=${one.id}`}>
        <b>
          <Text of={one.name} />
        </b>
      </Link>
    ),
  },
  {
    name: "type",
    label: "Type",
    width: "minmax(100px, 1fr)",
    cell: (one) => typeWords(one.type),
  },
  {
    name: "user",
    label: "Logs in as",
    width: "minmax(100px, 1fr)",
    cell: (one) => (one.username ? <Text of={one.username} /> : "–"),
  },
  {
    name: "source",
    label: "Secret",
    width: "minmax(100px, 1fr)",
    cell: (one) => (one.source ? String(one.source["type"] ?? "elsewhere") : "stored here"),
  },
  {
    name: "used",
    label: "Last used",
    width: "120px",
    cell: (one) => <Time at={one.last_used_at} ago />,
  },
];
