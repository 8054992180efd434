/** Approvals: what waits for a decision, and what was decided? */
import { ask } from "../api/ask.ts";
import type { Approval } from "../api/types.ts";
import { Name } from "../execution/name-shown.tsx";
import { Empty } from "../parts/empty.tsx";
import { currentFilter, Filter } from "../parts/filter.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { type FilterWord, toQuery } from "../state/list-filter.ts";
import { useListing } from "../state/listing.ts";

const REFRESH_SECONDS = 15;
const WORDS: readonly FilterWord[] = [
  {
    word: "status",
    parameter: "status",
    values: ["pending", "approved", "rejected", "expired", "cancelled"],
  },
  { word: "execution", parameter: "execution_id", hint: "its number" },
  { word: "kind", parameter: "kind", values: ["launch", "action"] },
];

type ListQuery = NonNullable<Parameters<typeof ask<"GET /approvals">>[1]>["query"];

export default function Approvals() {
  const filter = currentFilter();
  const list = useListing(
    (cursor, signal) =>
      ask("GET /approvals", {
        query: { ...toQuery(filter, WORDS).query, cursor, limit: 50 } as ListQuery,
        signal,
      }),
    [filter],
    REFRESH_SECONDS,
  );
  return (
    <div class="stack">
      <div class="head">
        <h1>Approvals</h1>
      </div>
      <div class="row">
        <Filter label="Filter of approvals" words={WORDS} />
      </div>
      <Loaded resource={list} what="approvals">
        {({ items }) =>
          items.length ? (
            <Table
              label="Approvals"
              columns={COLUMNS}
              rows={items}
              keyOf={(approval) => String(approval.id)}
              onOpen={(approval) => go(`/approvals/${approval.id}`)}
              onMore={list.more}
              width={720}
            />
          ) : (
            <Nothing filter={filter} />
          )
        }
      </Loaded>
    </div>
  );
}

function Nothing({ filter }: { filter: string }) {
  if (filter)
    return (
      <Empty why="No approval fits this filter.">
        <Link to="/approvals">Show all</Link>
      </Empty>
    );
  return (
    <Empty why="Nothing was asked for yet. A job asks for an approval by its policy, and the safety check where a command is dangerous." />
  );
}

const COLUMNS: readonly Column<Approval>[] = [
  {
    name: "what",
    label: "Asked for",
    width: "minmax(200px, 3fr)",
    cell: (approval) => (
      <Link to={`/approvals/${approval.id}`}>
        <Text of={approval.message || "The launch"} />
      </Link>
    ),
  },
  {
    name: "status",
    label: "State",
    width: "minmax(110px, 1fr)",
    cell: (approval) => <Status state={approval.status} />,
  },
  {
    name: "execution",
    label: "Execution",
    width: "minmax(140px, 2fr)",
    cell: (approval) => <Name of={approval} id={approval.execution_id} />,
  },
  {
    name: "by",
    label: "By",
    width: "minmax(90px, 1fr)",
    cell: (approval) => <Text of={approval.requested_by} />,
  },
  {
    name: "asked",
    label: "Asked",
    width: "minmax(90px, 1fr)",
    end: true,
    cell: (approval) => <Time at={approval.asked_at} ago />,
  },
  {
    name: "until",
    label: "Until",
    width: "minmax(120px, 1fr)",
    end: true,
    cell: (approval) =>
      approval.status === "pending" ? <Time at={approval.expires_at} /> : <Decided of={approval} />,
  },
];

function Decided({ of }: { of: Approval }) {
  return of.decided_by ? (
    <span class="dim">
      by <Text of={of.decided_by} />
    </span>
  ) : (
    <span class="dim">–</span>
  );
}
