/** Services that log in with tokens of their own, signed with a key that is known here. */
import { ask } from "../api/ask.ts";
import type { Service } from "../api/types.ts";
import { Command, Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useListing } from "../state/listing.ts";
import { Grants } from "./grants.tsx";

export function Services() {
  const list = useListing(
    (cursor, signal) => ask("GET /services", { query: { cursor, limit: 100 }, signal }),
    [],
  );
  return (
    <Panel title="Services" flush>
      <Loaded resource={list} what="services">
        {({ items }) =>
          items.length ? (
            <Table
              label="Services"
              columns={COLUMNS}
              rows={items}
              keyOf={(service) => String(service.id)}
              onMore={list.more}
              width={560}
            />
          ) : (
            <Empty why="There are no services yet. A service of the platform is added with its public key.">
              <Command text="opsjobs services add NAME --key FILE --role operator" />
            </Empty>
          )
        }
      </Loaded>
    </Panel>
  );
}

const COLUMNS: readonly Column<Service>[] = [
  {
    name: "name",
    label: "Name",
    width: "minmax(140px, 1fr)",
    cell: (service) => (
      <span class="row">
        <Status state={service.disabled ? "disabled" : "active"} label="" />
        <Text of={service.name} />
      </span>
    ),
  },
  {
    name: "grants",
    label: "Permissions",
    width: "minmax(160px, 2fr)",
    cell: (service) => <Grants grants={service.grants} />,
  },
  {
    name: "made",
    label: "Added",
    width: "minmax(120px, 1fr)",
    cell: (service) => <Time at={service.created_at} ago />,
  },
  {
    name: "by",
    label: "By",
    width: "minmax(80px, 1fr)",
    cell: (service) => service.made_by ?? "–",
  },
];
