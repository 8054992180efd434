/** People who log in at the OpenID Connect provider; they are kept there. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Person } from "../api/types.ts";
import { countWords } from "../parts/counts.ts";
import { Empty, None } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useListing } from "../state/listing.ts";
import { Grants } from "./grants.tsx";
import { Logins } from "./logins.tsx";

export function People() {
  const list = useListing(
    (cursor, signal) => ask("GET /external-people", { query: { cursor, limit: 100 }, signal }),
    [],
  );
  const [open, setOpen] = useState<Person | null>(null);
  return (
    <Panel title="People of the single sign-on" flush>
      <Loaded resource={list} what="people">
        {({ items }) =>
          items.length ? (
            <Table
              label="People of the single sign-on"
              columns={columnsOf(setOpen)}
              rows={items}
              keyOf={(person) => person.subject}
              onOpen={setOpen}
              onMore={list.more}
              width={720}
            />
          ) : (
            <Empty why="There were no logins by single sign-on yet. People are listed here from their first login on; their roles are given at the provider." />
          )
        }
      </Loaded>
      {open && (
        <Logins
          name={open.name}
          kind="external"
          onClose={() => {
            setOpen(null);
            void list.restart();
          }}
        />
      )}
    </Panel>
  );
}

function columnsOf(onLogins: (person: Person) => void): readonly Column<Person>[] {
  return [
    {
      name: "name",
      label: "Name",
      width: "minmax(140px, 1fr)",
      cell: (person) => (
        <span title={`${person.subject} at ${person.issuer}`}>
          <Text of={person.name} />
          {person.display_name && (
            <span class="dim">
              {" · "}
              <Text of={person.display_name} />
            </span>
          )}
        </span>
      ),
    },
    {
      name: "email",
      label: "E-mail",
      width: "minmax(160px, 1fr)",
      cell: (person) => (person.email ? <Text of={person.email} /> : <None />),
    },
    {
      name: "grants",
      label: "Permissions",
      width: "minmax(160px, 2fr)",
      cell: (person) => <Grants grants={person.grants} />,
    },
    {
      name: "seen",
      label: "Last seen",
      width: "110px",
      cell: (person) => <Time at={person.last_seen_at} ago />,
    },
    {
      name: "actions",
      label: "Logins",
      bare: true,
      width: "124px",
      cell: (person) => (
        <button
          type="button"
          class="button small"
          aria-label={`${countWords(person.logins, "login")} of ${person.name}`}
          onClick={() => onLogins(person)}
        >
          {countWords(person.logins, "login")} …
        </button>
      ),
    },
  ];
}
