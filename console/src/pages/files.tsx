/** Files: what jobs upload to targets. */
import { useRef, useState } from "preact/hooks";
import { ask, askRaw, RequestError } from "../api/ask.ts";
import type { StoredFile } from "../api/types.ts";
import { urlOf } from "../api/url.ts";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Icon } from "../parts/icon.tsx";
import { Panel } from "../parts/panel.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded, Trouble } from "../parts/trouble.tsx";
import { useListing } from "../state/listing.ts";
import { mayDo, mayDoEverywhere } from "../state/rights.ts";
import { me } from "../state/session.ts";
import { bytesWords } from "../system/bytes.ts";

export default function Files() {
  const list = useListing(
    (cursor, signal) => ask("GET /files", { query: { cursor, limit: 100 }, signal }),
    [],
  );
  const [deleted, setDeleted] = useState<StoredFile | null>(null);
  const columns: readonly Column<StoredFile>[] = [
    ...COLUMNS,
    {
      name: "actions",
      label: "Actions",
      bare: true,
      width: "180px",
      cell: (file) => (
        <span class="row">
          <a
            class="button small"
            href={urlOf("/files/{id}/content", { id: file.id })}
            download={file.name}
            aria-label={`Download ${file.name}`}
          >
            <Icon name="download" />
          </a>
          {mayDelete(file) && (
            <button
              type="button"
              class="button small danger"
              aria-label={`Delete ${file.name}`}
              onClick={() => setDeleted(file)}
            >
              Delete …
            </button>
          )}
        </span>
      ),
    },
  ];
  return (
    <div class="stack">
      <h1>Files</h1>
      {mayDo("jobs:execute") && <Upload onDone={list.restart} />}
      <Panel title="Stored files" flush>
        <Loaded resource={list} what="files">
          {({ items }) =>
            items.length ? (
              <Table
                label="Files"
                columns={columns}
                rows={items}
                keyOf={(file) => String(file.id)}
                onMore={list.more}
                width={700}
              />
            ) : (
              <Empty why="There are no files yet. A file transfer copies one to targets." />
            )
          }
        </Loaded>
      </Panel>
      {deleted && (
        <Confirm
          title={`Delete ${deleted.name}?`}
          verb="Delete"
          danger
          onClose={() => setDeleted(null)}
          onConfirm={async () => {
            await ask("DELETE /files/{id}", { path: { id: String(deleted.id) } });
            toast(`Deleted: ${deleted.name}`);
            await list.restart();
          }}
        >
          <p>Jobs that copy it fail from now on.</p>
        </Confirm>
      )}
    </div>
  );
}

/** People with a scope delete their own files only. */
function mayDelete(file: StoredFile): boolean {
  const own = file.created_by === me.value?.name;
  return mayDoEverywhere("jobs:execute") || (own && mayDo("jobs:execute"));
}

function Upload({ onDone }: { onDone: () => Promise<void> }) {
  const input = useRef<HTMLInputElement>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<RequestError | null>(null);
  const upload = async () => {
    const file = input.current?.files?.[0];
    if (!file) return;
    setBusy(true);
    setError(null);
    try {
      await askRaw("POST /files", { query: { name: file.name }, raw: file });
      toast(`${file.name} is stored`);
      input.current!.value = "";
      await onDone();
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Panel title="Upload">
      <div class="form">
        <label class="row">
          <span>File</span>
          <input ref={input} class="input" type="file" disabled={busy} onChange={upload} />
          {busy && <span role="status">Uploading …</span>}
        </label>
        {error && <Trouble error={error} />}
      </div>
    </Panel>
  );
}

const COLUMNS: readonly Column<StoredFile>[] = [
  { name: "id", label: "Id", width: "70px", cell: (file) => file.id },
  {
    name: "name",
    label: "Name",
    width: "minmax(160px, 3fr)",
    cell: (file) => <Text of={file.name} />,
  },
  {
    name: "size",
    label: "Size",
    width: "90px",
    end: true,
    cell: (file) => bytesWords(file.size),
  },
  {
    name: "sha",
    label: "SHA-256",
    width: "130px",
    cell: (file) => <code title={file.sha256}>{file.sha256.slice(0, 12)}…</code>,
  },
  {
    name: "by",
    label: "By",
    width: "minmax(80px, 1fr)",
    cell: (file) => <Text of={file.created_by} />,
  },
  {
    name: "at",
    label: "When",
    width: "110px",
    cell: (file) => <Time at={file.created_at} ago />,
  },
];
