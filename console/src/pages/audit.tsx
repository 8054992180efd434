/** Audit: who did it? */
import { useState } from "preact/hooks";
import { ask, RequestError } from "../api/ask.ts";
import type { AuditEntry, Verification } from "../api/types.ts";
import { changesOf, placeOf } from "../audit/links.ts";
import { CopyButton } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Facts } from "../parts/facts.tsx";
import { Icon } from "../parts/icon.tsx";
import { ListPage } from "../parts/list-page.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import type { Column } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded, Trouble } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { useFilteredList } from "../state/filtered-list.ts";
import type { FilterWord } from "../state/list-filter.ts";
import { useResource } from "../state/resource.ts";
import "../style/admin.css";

const WORDS: readonly FilterWord[] = [
  { word: "actor", parameter: "actor", hint: "who did it" },
  { word: "person", parameter: "person", hint: "behind a key" },
  { word: "action", parameter: "action", hint: "such as job.updated" },
  {
    word: "object",
    parameter: "thing",
    open: true,
    values: ["execution", "job", "target", "schedule", "approval", "credential", "user", "api_key"],
  },
  { word: "id", parameter: "thing_id", hint: "of the object" },
  { word: "name", parameter: "thing_name", hint: "of the object" },
  { word: "address", parameter: "address" },
  { word: "request", parameter: "request_id" },
  { word: "after", parameter: "at_after", kind: "time", hint: "2026-11-29 or 2026-11-29T08:30" },
  { word: "before", parameter: "at_before", kind: "time" },
];

export default function Audit() {
  const rows = useFilteredList("GET /audit", { words: WORDS, limit: 100 });
  const shown = query.value.get("row");
  return (
    <>
      <ListPage
        title="Audit log"
        rows="audit rows"
        of={rows}
        placeholder="Such as actor:ada action:job.updated object:target"
        actions={
          <button type="button" class="button" onClick={rows.list.restart}>
            Reload
          </button>
        }
        intro={<Chain />}
        columns={COLUMNS}
        keyOf={(row) => String(row.id)}
        onOpen={open}
        width={970}
        empty={<Empty why="Nothing has been recorded yet." />}
      />
      {shown && <Row id={shown} />}
    </>
  );
}

const open = (row: AuditEntry) => setQuery({ row: String(row.id) }, { replace: false });

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
    width: "minmax(248px, 1fr)",
    cell: (row) => <code>{row.action}</code>,
  },
  {
    name: "thing",
    label: "Object",
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
  {
    name: "details",
    label: "Actions",
    width: "112px",
    bare: true,
    cell: (row) => (
      <button
        type="button"
        class="button small"
        aria-haspopup="dialog"
        aria-label={`Details of audit row ${row.id}`}
        onClick={() => open(row)}
      >
        Details
        <Icon name="right" />
      </button>
    ),
  },
];

function Thing({ row }: { row: AuditEntry }) {
  const id = row.thing === "execution" ? `#${row.thing_id}` : row.thing_id;
  const name =
    row.thing === "execution" && row.thing_name ? `${row.thing_name} ${id}` : row.thing_name;
  const words = `${row.thing.replaceAll("_", " ")} ${name ?? id ?? ""}`;
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
          Object: <Thing row={row} />,
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
          {busy ? "Verifying …" : "Verify the chain"}
        </button>
      }
    >
      <div aria-live="polite">
        {error && <Trouble error={error} />}
        {!checked && !error && (
          <p class="dim">
            Each row is sealed together with the row before it, so that any change is found.
          </p>
        )}
        {checked && <ChainResult rows={checked.rows} last={checked.last} busy={busy} />}
      </div>
    </Panel>
  );
}

function ChainResult({ rows, last, busy }: { rows: number; last: Verification; busy: boolean }) {
  const words = `${rows.toLocaleString("en")} rows verified`;
  if (last.broken)
    return (
      <p>
        <Status state="failed" label={`Broken at seal ${last.broken.seal}`} />: {last.broken.detail}
      </p>
    );
  if (busy) return <Status state="running" label={words} />;
  return (
    <p class="row">
      <Status state="completed" label={`Intact: ${words}`} />
      {last.unsealed > 0 && <span class="dim">{last.unsealed} not sealed yet</span>}
      {last.keys_missing.length > 0 && (
        <Status state="partial" label={`keys missing: ${last.keys_missing.join(", ")}`} />
      )}
    </p>
  );
}
