/** Webhooks: who is told outside, and does it arrive? */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Webhook } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useListing } from "../state/listing.ts";
import { WebhookForm } from "../webhooks/form.tsx";
import { webhookState } from "../webhooks/words.ts";

const REFRESH_SECONDS = 15;

export default function Webhooks() {
  const [adding, setAdding] = useState(false);
  const list = useListing(
    (cursor, signal) => ask("GET /webhooks", { query: { cursor, limit: 100 }, signal }),
    [],
    REFRESH_SECONDS,
  );
  return (
    <div class="stack">
      <div class="head">
        <h1>Webhooks</h1>
        <div class="actions">
          <button type="button" class="button" onClick={() => setAdding(true)}>
            New webhook …
          </button>
        </div>
      </div>
      <Loaded resource={list} what="webhooks">
        {({ items }) =>
          items.length ? (
            <Table
              label="Webhooks"
              columns={COLUMNS}
              rows={items}
              keyOf={(webhook) => String(webhook.id)}
              onOpen={(webhook) => go(`/webhooks/${webhook.id}`)}
              onMore={list.more}
              width={720}
            />
          ) : (
            <Empty why="There are no webhooks yet. A webhook sends the events that it selects to a URL." />
          )
        }
      </Loaded>
      {adding && (
        <WebhookForm
          webhook={null}
          onDone={(made) => go(`/webhooks/${made.id}`)}
          onClose={() => setAdding(false)}
        />
      )}
    </div>
  );
}

const COLUMNS: readonly Column<Webhook>[] = [
  {
    name: "name",
    label: "Webhook",
    width: "minmax(120px, 1fr)",
    cell: (webhook) => (
      <Link to={`/webhooks/${webhook.id}`}>
        <b>
          <Text of={webhook.name} />
        </b>
      </Link>
    ),
  },
  {
    name: "state",
    label: "State",
    width: "minmax(120px, 1fr)",
    cell: (webhook) => <Status {...webhookState(webhook)} />,
  },
  {
    name: "events",
    label: "Events",
    width: "minmax(160px, 2fr)",
    cell: (webhook) => <Text of={webhook.events.join(", ")} />,
  },
  {
    name: "url",
    label: "URL",
    width: "minmax(160px, 2fr)",
    cell: (webhook) => (
      <span class="mono">
        <Text of={webhook.url} />
      </span>
    ),
  },
  {
    name: "owner",
    label: "Owner",
    width: "minmax(80px, 1fr)",
    cell: (webhook) => <Text of={webhook.owner} />,
  },
  {
    name: "changed",
    label: "Changed",
    width: "120px",
    end: true,
    cell: (webhook) => <Time at={webhook.updated_at} ago />,
  },
];
