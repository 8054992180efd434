/** Targets: which machines are sick? */
import { ask } from "../api/ask.ts";
import type { ShownTarget } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { currentFilter, Filter, NothingFits } from "../parts/filter.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { wordsOf } from "../parts/tone.ts";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link, query, setQuery } from "../router.tsx";
import { type FilterWord, toQuery } from "../state/list-filter.ts";
import { useListing } from "../state/listing.ts";
import { healthReason } from "../targets/health.ts";

const REFRESH_SECONDS = 15;
const HEALTHS = ["sick", "maintenance", "unknown", "ok"] as const;

const WORDS: readonly FilterWord[] = [
  { word: "health", parameter: "health", values: HEALTHS },
  { word: "label", parameter: "selector", hint: "such as env=prod" },
  { word: "group", parameter: "groups" },
  { word: "zone", parameter: "zone" },
  { word: "transport", parameter: "transport", values: ["ssh", "winrm", "local"] },
];

type ListQuery = NonNullable<Parameters<typeof ask<"GET /targets">>[1]>["query"];

/** Return the filter as the API takes it: all labels are one selector. */
export function targetsQuery(filter: string): Record<string, string | string[]> {
  const { query: asked, text } = toQuery(filter, WORDS);
  const { selector, ...rest } = asked;
  return {
    ...rest,
    ...(selector && { selector: selector.join(",") }),
    ...(text && { q: text }),
  };
}

export default function Targets() {
  const filter = currentFilter();
  const sort = query.value.get("sort");
  const list = useListing(
    (cursor, signal) =>
      ask("GET /targets", {
        query: {
          ...targetsQuery(filter),
          sort: sort ?? "name",
          cursor,
          limit: 100,
          facets: ["health"],
        } as ListQuery,
        signal,
      }),
    [filter, sort],
    REFRESH_SECONDS,
  );
  return (
    <div class="stack">
      <h1>Targets</h1>
      <Filter
        label="Filter of targets"
        words={WORDS}
        text
        placeholder="name or host, health:sick label:env=prod"
      />
      <Loaded resource={list} what="targets">
        {({ items, facets }) => (
          <>
            <Healths counts={facets?.["health"] ?? {}} filter={filter} />
            {items.length ? (
              <Table
                label="Targets"
                columns={COLUMNS}
                rows={items}
                keyOf={(target) => target.id}
                onOpen={(target) => go(pathOf(target))}
                sort={sort ?? "name"}
                onSort={(by) => setQuery({ sort: by === "name" ? null : by })}
                onMore={list.more}
                width={860}
              />
            ) : (
              <Nothing filter={filter} />
            )}
          </>
        )}
      </Loaded>
    </div>
  );
}

const pathOf = (target: ShownTarget) => `/targets/${encodeURIComponent(target.name)}`;

/** How many there are of each health; each filters. */
function Healths({ counts, filter }: { counts: Record<string, number>; filter: string }) {
  const kept = filter.replace(/(^|\s)health:\S+/g, "").trim();
  const shown = HEALTHS.filter((health) => counts[health]);
  if (shown.length === 0) return null;
  return (
    <ul class="tally">
      {shown.map((health) => (
        <li key={health}>
          <button
            type="button"
            class="button small"
            aria-pressed={filter.includes(`health:${health}`)}
            onClick={() => {
              const chosen = filter.includes(`health:${health}`);
              setQuery(
                { q: chosen ? kept : `health:${health} ${kept}`.trim() },
                { replace: false },
              );
            }}
          >
            <Status
              state={health}
              label={`${counts[health]!.toLocaleString("en")} ${wordsOf(health)}`}
            />
          </button>
        </li>
      ))}
    </ul>
  );
}

function Nothing({ filter }: { filter: string }) {
  if (filter) return <NothingFits one="target" all="targets" />;
  return (
    <Empty why="There are no targets that you may see. Add one, import an inventory, or try the lab:">
      <code>opsjobs targets add web-1 10.0.0.5 -c deploy</code>
      <code>opsjobs targets import inventory.ini</code>
      <code>opsjobs up --lab 20</code>
    </Empty>
  );
}

const COLUMNS: readonly Column<ShownTarget>[] = [
  {
    name: "name",
    label: "Target",
    width: "minmax(140px, 1fr)",
    sort: "name",
    cell: (target) => (
      <Link to={pathOf(target)}>
        <b>
          <Text of={target.name} />
        </b>
      </Link>
    ),
  },
  {
    name: "health",
    label: "Health",
    width: "minmax(130px, 1fr)",
    cell: (target) => target.health && <Status state={target.health.status} />,
  },
  {
    name: "why",
    label: "Why",
    width: "minmax(160px, 2fr)",
    cell: (target) => <Text of={healthReason(target.health)} />,
  },
  {
    name: "contact",
    label: "Last contact",
    width: "minmax(100px, 1fr)",
    cell: (target) => <Time at={target.health?.last_contact_at ?? null} ago />,
  },
  {
    name: "labels",
    label: "Labels",
    width: "minmax(140px, 2fr)",
    cell: (target) => (
      <Text
        of={Object.entries(target.labels)
          .map(([key, value]) => `${key}=${value}`)
          .join(", ")}
      />
    ),
  },
  {
    name: "host",
    label: "Host",
    width: "minmax(120px, 1fr)",
    sort: "host",
    cell: (target) => (
      <span class="mono">
        <Text of={target.host} />:{target.port}
      </span>
    ),
  },
];
