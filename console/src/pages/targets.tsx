/** Targets: which machines are unhealthy? */
import { useState } from "preact/hooks";
import type { ShownTarget } from "../api/types.ts";
import { Command, Empty, None } from "../parts/empty.tsx";
import { ListPage } from "../parts/list-page.tsx";
import { Status } from "../parts/status.tsx";
import type { Column } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { wordsOf } from "../parts/tone.ts";
import { go, Link, query, setQuery } from "../router.tsx";
import { useFilteredList } from "../state/filtered-list.ts";
import type { FilterWord } from "../state/list-filter.ts";
import { inSight, mayDo } from "../state/rights.ts";
import { TargetForm } from "../targets/form.tsx";
import { healthReason } from "../targets/health.ts";
import { TestDialog } from "../targets/test.tsx";

const REFRESH_SECONDS = 15;
const HEALTHS = ["unhealthy", "maintenance", "unknown", "ok"] as const;

const WORDS: readonly FilterWord[] = [
  { word: "health", parameter: "health", values: HEALTHS },
  { word: "label", parameter: "selector", hint: "such as env=prod", joined: true },
  { word: "group", parameter: "groups" },
  { word: "zone", parameter: "zone" },
  { word: "transport", parameter: "transport", values: ["ssh", "winrm", "local"] },
];

type Open = "add" | { test: ShownTarget } | null;

export default function Targets() {
  const [open, setOpen] = useState<Open>(query.value.get("add") === "1" ? "add" : null);
  const targets = useFilteredList("GET /targets", {
    words: WORDS,
    // Those with trouble first.
    sort: "health",
    more: { facets: ["health"] },
    limit: 100,
    everySeconds: REFRESH_SECONDS,
  });
  const close = () => {
    setOpen(null);
    setQuery({ add: null });
    void targets.list.restart();
  };
  const manages = mayDo("targets:manage");
  return (
    <>
      <ListPage
        title="Targets"
        rows="targets"
        of={targets}
        text
        placeholder="Part of a name or host, or health:unhealthy label:env=prod"
        actions={
          manages && (
            <>
              <button type="button" class="button" onClick={() => setOpen("add")}>
                New target …
              </button>
              <Link class="button" to="/targets/import">
                Import …
              </Link>
            </>
          )
        }
        above={({ facets }) => (
          <Healths counts={facets?.["health"] ?? {}} filter={targets.filter} />
        )}
        columns={manages ? [...COLUMNS, testColumn((test) => setOpen({ test }))] : COLUMNS}
        keyOf={(target) => target.id}
        pathOf={pathOf}
        width={manages ? 960 : 860}
        empty={<NoTargets onAdd={() => setOpen("add")} />}
      />
      {manages && open === "add" && (
        <TargetForm
          target={null}
          onDone={({ name }) => {
            // Back leads to the list, not to the form.
            setQuery({ add: null });
            go(`${pathOf({ name })}?new=1`);
          }}
          onClose={close}
        />
      )}
      {open !== null && typeof open === "object" && (
        <TestDialog target={open.test} onClose={close} />
      )}
    </>
  );
}

const pathOf = (target: Pick<ShownTarget, "name">) => `/targets/${encodeURIComponent(target.name)}`;

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

function NoTargets({ onAdd }: { onAdd: () => void }) {
  return (
    <Empty
      why={`There are no targets yet${inSight("targets:read")}. A target is a machine that jobs run on.`}
    >
      {mayDo("targets:manage") && (
        <>
          <p class="row">
            <button type="button" class="button primary" onClick={onAdd}>
              New target …
            </button>
            <Link class="button" to="/targets/import">
              Import …
            </Link>
          </p>
          <Command intro="Or try it on a lab on this machine:" text="opsjobs up --lab 12" />
        </>
      )}
    </Empty>
  );
}

function testColumn(onTest: (target: ShownTarget) => void): Column<ShownTarget> {
  return {
    name: "test",
    label: "Actions",
    bare: true,
    width: "80px",
    cell: (target) =>
      mayDo("targets:manage", target.labels) && (
        <button
          type="button"
          class="button small"
          aria-label={`Test ${target.name}`}
          onClick={() => onTest(target)}
        >
          Test
        </button>
      ),
  };
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
    sort: "health",
    cell: (target) => target.health && <Status state={target.health.status} />,
  },
  {
    name: "why",
    label: "What is wrong",
    width: "minmax(200px, 3fr)",
    cell: (target) => {
      const reason = healthReason(target.health);
      return reason ? <Text of={reason} /> : <None />;
    },
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
    width: "minmax(140px, 3fr)",
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
    width: "minmax(140px, 1fr)",
    sort: "host",
    cell: (target) => (
      <span class="mono">
        <Text of={target.host} />:{target.port}
      </span>
    ),
  },
];
