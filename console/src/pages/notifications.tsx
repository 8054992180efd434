/** Notifications: who is told by default, and did it arrive? */
import { ask } from "../api/ask.ts";
import { asRead } from "../api/stale.ts";
import type { OutgoingDelivery } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { RulesPanel } from "../notifications/rules.tsx";
import { useAttempt } from "../parts/attempt.tsx";
import { commandLine, curlLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { type Again, deliveryColumns } from "../parts/deliveries.tsx";
import { Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { query, setQuery } from "../router.tsx";
import { useListing } from "../state/listing.ts";
import { useResource } from "../state/resource.ts";
import { mayDoEverywhere } from "../state/rights.ts";

const REFRESH_SECONDS = 15;

export default function Notifications() {
  const found = useResource((signal) => ask("GET /notifications/default", { signal }), []);
  const stored = found.data.value;
  return (
    <div class="stack">
      <div class="head">
        <h1>Notifications</h1>
        <div class="actions">
          <CopyMenu
            of={{
              command: commandLine("opsjobs", "notifications", "default"),
              ...(stored && {
                curl: curlLine("PUT", `${location.origin}${PREFIX}/notifications/default`, {
                  notify: stored.notify,
                }),
                json: { notify: stored.notify },
              }),
            }}
          />
        </div>
      </div>
      <p class="dim">
        These rules apply to all jobs and schedules without rules of their own, which stand on their
        pages.
      </p>
      <Loaded resource={found} what="the rules">
        {({ notify, ...rest }) => (
          <RulesPanel
            title="Default rules"
            rules={notify}
            otherwise={null}
            pointer="/notify"
            may={mayDoEverywhere("system:admin")}
            save={async (rules) => {
              const body = { notify: [...(rules ?? [])], ...asRead(rest) };
              await ask("PUT /notifications/default", { body });
              await found.reload();
            }}
          />
        )}
      </Loaded>
      <Deliveries />
    </div>
  );
}

function Deliveries() {
  const failed = query.value.get("status") === "failed";
  const list = useListing(
    (cursor, signal) =>
      ask("GET /deliveries", {
        query: { cursor, limit: 50, ...(failed && { status: ["failed"] }) },
        signal,
      }),
    [failed],
    REFRESH_SECONDS,
  );
  const { busy, trouble, attempt } = useAttempt();
  const send = (delivery: OutgoingDelivery) =>
    attempt(async () => {
      await ask("POST /deliveries/{id}/redeliver", { path: { id: String(delivery.id) } });
      toast("It is sent again.");
      await list.restart();
    });
  return (
    <Panel
      title="What was sent"
      flush
      actions={
        <button
          type="button"
          class="button small"
          aria-pressed={failed}
          onClick={() => setQuery({ status: failed ? null : "failed" })}
        >
          Only what failed
        </button>
      }
    >
      {trouble}
      <Loaded resource={list} what="deliveries">
        {({ items }) =>
          items.length ? (
            <Table
              label="Deliveries"
              columns={columnsOf(mayDoEverywhere("system:admin") ? { busy, send } : null)}
              rows={items}
              keyOf={(delivery) => String(delivery.id)}
              onMore={list.more}
              width={940}
            />
          ) : (
            <Empty
              why={
                failed
                  ? "No message has failed: all were delivered, or are tried again."
                  : "No messages were sent yet, since no rule has applied. Tests are not listed here."
              }
            />
          )
        }
      </Loaded>
    </Panel>
  );
}

/** Those of every log of deliveries, and to whom: their title says more than their event. */
function columnsOf(again: Again<OutgoingDelivery> | null): readonly Column<OutgoingDelivery>[] {
  const to: Column<OutgoingDelivery> = {
    name: "to",
    label: "To",
    width: "minmax(140px, 2fr)",
    cell: (delivery) => (
      <>
        <Text of={delivery.to} /> <span class="dim">{delivery.destination}</span>
      </>
    ),
  };
  return deliveryColumns(again).flatMap((column) =>
    column.name === "event"
      ? [
          to,
          {
            ...column,
            label: "Message",
            cell: (delivery) => <Text of={delivery.title ?? delivery.event} />,
          },
        ]
      : [column],
  );
}
