/** Audit: who did it? */
import { useState } from "preact/hooks";
import { ask, RequestError } from "../api/ask.ts";
import type { AuditEntry, Verification } from "../api/types.ts";
import { changesOf, placeOf } from "../audit/links.ts";
import { CopyButton } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Facts } from "../parts/facts.tsx";
import { currentFilter, Filter } from "../parts/filter.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded, Trouble } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { type FilterWord, toQuery } from "../state/list-filter.ts";
import { useListing } from "../state/listing.ts";
import { useResource } from "../state/resource.ts";
import "../style/admin.css";

const WORDS: readonly FilterWord[] = [
  { word: "actor", parameter: "actor", hint: "who did it" },
  { word: "person", parameter: "person", hint: "behind a key" },
  { word: "action", parameter: "action", hint: "such as job.updated" },
  {
    word: "thing",
    parameter: "thing",
    values: ["execution", "job", "target", "schedule", "approval", "credential", "user", "api_key"],
  },
  { word: "id", parameter: "thing_id", hint: "of the thing" },
  { word: "name", parameter: "thing_name", hint: "of the thing" },
  { word: "address", parameter: "address" },
  { word: "request", parameter: "request_id" },
  { word: "after", parameter: "at_after", hint: "2026-11-29T00:00:00Z" },
  { word: "before", parameter: "at_before" },
];

type ListQuery = NonNullable<Parameters<typeof ask<"GET /audit">>[1]>["query"];

export default function Audit() {
  const filter = currentFilter();
  const asked = toQuery(filter, WORDS);
  const list = useListing(
    (cursor, signal) =>
      ask("GET /audit", {
        query: { ...asked.query, cursor, limit: 100 } as ListQuery,
        signal,
      }),
    [filter],
  );
  const shown = query.value.get("row");
  return (
    <div class="stack">
      <div class="head">
        <h1>Audit</h1>
        <div class="actions">
          <button type="button" class="button" onClick={list.restart}>
            Load again
          </button>
        </div>
      </div>
      <Chain />
      <Filter label="Filter of the audit log" words={WORDS} />
      <Panel title="Rows" flush>
        <Loaded resource={list} what="the audit log">
          {({ items }) =>
            items.length ? (
              <Table
                label="Audit log"
                columns={COLUMNS}
                rows={items}
                keyOf={(row) => String(row.id)}
                onOpen={(row) => setQuery({ row: String(row.id) }, { replace: false })}
                onMore={list.more}
                width={820}
              />
            ) : (
              <Empty why={filter ? `No row has all of: ${filter}` : "Nothing was done yet."}>
                {filter && (
                  <button type="button" class="button" onClick={() => setQuery({ q: null })}>
                    Show all
                  </button>
                )}
              </Empty>
            )
          }
        </Loaded>
      </Panel>
      {shown && <Row id={shown} />}
    </div>
  );
}

const COLUMNS: readonly Column<AuditEntry>[] = [
  { name: "at", label: "When", width: "170px", cell: (row) => <Time at={row.at} /> },
  {
    name: "actor",
    label: "Who",
    width: "minmax(100px, 1fr)",
    cell: (row) => <Text of={row.person ? `${row.actor} (${row.person})` : row.actor} />,
  },
  {
    name: "action",
    label: "What",
    width: "minmax(208px, 1fr)",
    cell: (row) => <code>{row.action}</code>,
  },
  {
    name: "thing",
    label: "Thing",
    width: "minmax(160px, 2fr)",
    cell: (row) => <Thing row={row} />,
  },
  {
    name: "reason",
    label: "Reason",
    width: "minmax(120px, 2fr)",
    cell: (row) => row.reason && <Text of={row.reason} />,
  },
  { name: "address", label: "From", width: "130px", cell: (row) => row.address ?? "–" },
];

function Thing({ row }: { row: AuditEntry }) {
  const number = row.thing === "execution" ? ` #${row.thing_id}` : "";
  const words = `${row.thing.replaceAll("_", " ")} ${row.thing_name ?? row.thing_id ?? ""}${number}`;
  const place = placeOf(row);
  if (place === null) return <Text of={words} />;
  return (
    <Link to={place}>
      <Text of={words} />
    </Link>
  );
}

/** One row, with what it changed. */
function Row({ id }: { id: string }) {
  const found = useResource(
    async (signal) => (await ask("GET /audit", { query: { id: [id] }, signal })).items[0] ?? null,
    [id],
  );
  const close = () => setQuery({ row: null });
  return (
    <Dialog title={`Audit row ${id}`} onClose={close} wide>
      <Loaded resource={found} what="the row">
        {(row) => (row ? <RowDetails row={row} /> : <p>There is no such row.</p>)}
      </Loaded>
      <div class="actions">
        <button type="button" class="button" onClick={close}>
          Close
        </button>
      </div>
    </Dialog>
  );
}

function RowDetails({ row }: { row: AuditEntry }) {
  const changes = changesOf(row);
  return (
    <>
      <Facts
        facts={{
          When: <Time at={row.at} />,
          Who: <Text of={`${row.actor}, ${row.actor_kind.replaceAll("_", " ")}`} />,
          Person: row.person ?? "–",
          What: <code>{row.action}</code>,
          Thing: <Thing row={row} />,
          Reason: row.reason ? <Text of={row.reason} /> : "–",
          From: row.address ?? "–",
          Request: row.request_id ? (
            <span class="row">
              <code>{row.request_id}</code>
              <CopyButton text={row.request_id} what="request id" />
            </span>
          ) : (
            "–"
          ),
          Seal: row.seal ?? "not sealed yet",
        }}
      />
      {changes.length > 0 && (
        <ul class="changes">
          {changes.map((change) => (
            <li key={change.field}>
              <b>{change.field}</b>
              {change.before && (
                <code class="tone bad">
                  − <Text of={change.before} />
                </code>
              )}
              {change.after && (
                <code class="tone ok">
                  + <Text of={change.after} />
                </code>
              )}
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

/** The chain of seals: checked from its beginning, part by part, when asked for. */
function Chain() {
  const [checked, setChecked] = useState<{ rows: number; last: Verification } | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<RequestError | null>(null);
  const check = async () => {
    setBusy(true);
    setError(null);
    try {
      let rows = 0;
      for (let after: number | null = null; ; ) {
        const last: Verification = await ask("GET /audit/verify", { query: { after } });
        rows += last.checked;
        setChecked({ rows, last });
        if (!last.whole || last.next === null) break;
        after = last.next;
      }
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Panel
      title="Chain"
      actions={
        <button type="button" class="button small" disabled={busy} onClick={check}>
          {busy ? "Checking …" : "Check the chain"}
        </button>
      }
    >
      <div aria-live="polite">
        {error && <Trouble error={error} />}
        {!checked && !error && (
          <p class="dim">Each row is sealed with the one before it: a change shows.</p>
        )}
        {checked && <ChainResult rows={checked.rows} last={checked.last} busy={busy} />}
      </div>
    </Panel>
  );
}

function ChainResult({ rows, last, busy }: { rows: number; last: Verification; busy: boolean }) {
  const words = `${rows.toLocaleString("en")} rows checked`;
  if (last.broken)
    return (
      <p>
        <Status state="failed" label={`Broken at seal ${last.broken.seal}`} />: {last.broken.detail}
      </p>
    );
  if (busy) return <Status state="running" label={words} />;
  return (
    <p class="row">
      <Status state="completed" label={`Whole: ${words}`} />
      {last.unsealed > 0 && <span class="dim">{last.unsealed} not sealed yet</span>}
      {last.keys_missing.length > 0 && (
        <Status state="partial" label={`keys missing: ${last.keys_missing.join(", ")}`} />
      )}
    </p>
  );
}
