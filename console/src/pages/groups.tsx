/** Groups of targets: which machines belong together? */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Group } from "../api/types.ts";
import { GroupForm } from "../groups/form.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Menu } from "../parts/menu.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useListing } from "../state/listing.ts";
import { mayDo } from "../state/rights.ts";

type Open = { what: "add" } | { what: "change" | "delete"; group: Group } | null;

export default function Groups() {
  const [open, setOpen] = useState<Open>(null);
  const close = () => setOpen(null);
  const list = useListing(
    (cursor, signal) => ask("GET /target-groups", { query: { cursor, limit: 100 }, signal }),
    [],
  );
  const names = (list.data.value?.items ?? []).map((group) => group.name);
  const may = mayDo("targets:manage");
  return (
    <div class="stack">
      <div class="head">
        <h1>Groups</h1>
        {may && (
          <div class="actions">
            <button type="button" class="button" onClick={() => setOpen({ what: "add" })}>
              New group …
            </button>
          </div>
        )}
      </div>
      <Loaded resource={list} what="groups">
        {({ items }) =>
          items.length ? (
            <Table
              label="Groups"
              columns={may ? [...COLUMNS, actionsOf(setOpen)] : COLUMNS}
              rows={items}
              keyOf={(group) => String(group.id)}
              onOpen={(group) => go(pathOf(group))}
              onMore={list.more}
              width={640}
            />
          ) : (
            <Empty why="There are no groups yet. A group has the targets that name it, those with some labels, and those of other groups." />
          )
        }
      </Loaded>
      {open && open.what !== "delete" && (
        <GroupForm
          group={open.what === "change" ? open.group : null}
          names={names}
          onClose={() => {
            close();
            void list.restart();
          }}
        />
      )}
      {open?.what === "delete" && (
        <Confirm
          title={`Delete ${open.group.name}?`}
          verb="Delete"
          danger
          onClose={close}
          onConfirm={async () => {
            await ask("DELETE /target-groups/{id}", { path: { id: String(open.group.id) } });
            toast(`${open.group.name} was deleted`);
            await list.restart();
          }}
        >
          <p>
            Its targets stay, and {open.group.direct_targets.toLocaleString("en")} of them no longer
            name it. A group that a job or another group names cannot be deleted.
          </p>
        </Confirm>
      )}
    </div>
  );
}

const pathOf = (group: Group) => `/targets?q=${encodeURIComponent(`group:${group.name}`)}`;

const COLUMNS: readonly Column<Group>[] = [
  {
    name: "name",
    label: "Group",
    width: "minmax(140px, 1fr)",
    cell: (group) => (
      <Link to={pathOf(group)}>
        <b>
          <Text of={group.name} />
        </b>
      </Link>
    ),
  },
  {
    name: "direct",
    label: "Targets that name it",
    width: "160px",
    cell: (group) => group.direct_targets.toLocaleString("en"),
  },
  {
    name: "more",
    label: "And those of",
    width: "minmax(160px, 2fr)",
    cell: (group) => (
      <Text of={[group.selector, ...group.groups].filter(Boolean).join(", ") || "–"} />
    ),
  },
];

function actionsOf(setOpen: (open: Open) => void): Column<Group> {
  return {
    name: "actions",
    label: "Actions",
    width: "112px",
    cell: (group) => (
      <Menu
        label="Actions"
        name={`Actions of ${group.name}`}
        kind="small"
        items={[
          { label: "Change …", onChoose: () => setOpen({ what: "change", group }) },
          { label: "Delete …", onChoose: () => setOpen({ what: "delete", group }) },
        ]}
      />
    ),
  };
}
