/** One webhook: what was delivered, what was not, and why? */
import { useState } from "preact/hooks";
import { ask, RequestError } from "../api/ask.ts";
import type { Delivery, WebhookDetail } from "../api/types.ts";
import { Act, hasAction } from "../parts/act.tsx";
import { useAttempt } from "../parts/attempt.tsx";
import { commandLine } from "../parts/command-line.ts";
import { CopyMenu } from "../parts/copy.tsx";
import { deliveryColumns } from "../parts/deliveries.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Facts } from "../parts/facts.tsx";
import { Panel } from "../parts/panel.tsx";
import { SecretOnce } from "../parts/secret-once.tsx";
import { useTitle } from "../parts/shell.tsx";
import { Status } from "../parts/status.tsx";
import { Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go } from "../router.tsx";
import { type Listing, useListing } from "../state/listing.ts";
import { type Resource, useResource } from "../state/resource.ts";
import { WebhookForm } from "../webhooks/form.tsx";
import { webhookState } from "../webhooks/words.ts";

const REFRESH_SECONDS = 15;
const WATCHED_SECONDS = 10;

export default function WebhookPage({ id }: { id: string }) {
  const webhook = useResource(
    (signal) => ask("GET /webhooks/{id}", { path: { id }, signal }),
    [id],
    REFRESH_SECONDS,
  );
  const deliveries = useListing(
    (cursor, signal) =>
      ask("GET /webhooks/{id}/deliveries", { path: { id }, query: { cursor, limit: 50 }, signal }),
    [id],
    REFRESH_SECONDS,
  );
  return (
    <Loaded resource={webhook} what="the webhook">
      {(found) => <Shown webhook={found} resource={webhook} deliveries={deliveries} />}
    </Loaded>
  );
}

interface ShownProps {
  webhook: WebhookDetail;
  resource: Resource<WebhookDetail>;
  deliveries: Listing<Delivery>;
}

function Shown({ webhook, resource, deliveries }: ShownProps) {
  useTitle(webhook.name);
  const path = { id: String(webhook.id) };
  const changed = async () => {
    await Promise.all([resource.reload(), deliveries.restart()]);
  };
  /** Show a delivery until it has ended, or for some seconds. */
  const watch = async (delivery: Delivery) => {
    await waitForEnd(path.id, delivery);
    // What cannot be loaded the list itself says.
    await changed();
  };
  const again = async (delivery: Delivery) => {
    const of = { ...path, delivery: String(delivery.id) };
    const queued = await ask("POST /webhooks/{id}/deliveries/{delivery}/redeliver", { path: of });
    toast("It is sent again.");
    await deliveries.restart();
    void watch(queued);
  };
  return (
    <div class="stack">
      <div class="head">
        <h1>
          <Text of={webhook.name} />
        </h1>
        <Status {...webhookState(webhook)} />
        <Actions webhook={webhook} changed={changed} watch={watch} />
      </div>
      {webhook.disabled_reason && (
        <p class="why-not">
          opsjobs disabled it: <Text of={webhook.disabled_reason} />
        </p>
      )}
      <Panel title="Details">
        <Facts
          facts={{
            URL: <Text of={webhook.url} />,
            Events: <Text of={webhook.events.join(", ")} />,
            Labels: webhook.selector ? <Text of={webhook.selector} /> : "all",
            Owner: <Text of={webhook.owner} />,
            "Failing since": webhook.failing_since ? <Time at={webhook.failing_since} /> : "–",
            "Old secret counts until": webhook.previous_secret_until ? (
              <Time at={webhook.previous_secret_until} />
            ) : (
              "–"
            ),
          }}
        />
      </Panel>
      <Deliveries deliveries={deliveries} again={hasAction(webhook, "redeliver") ? again : null} />
    </div>
  );
}

/** Wait until a delivery has ended, or cannot be read, or for some seconds. */
async function waitForEnd(webhook: string, delivery: Delivery): Promise<void> {
  const path = { id: webhook, delivery: String(delivery.id) };
  let { status } = delivery;
  for (let second = 0; second < WATCHED_SECONDS && status === "pending"; second++) {
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    try {
      status = (await ask("GET /webhooks/{id}/deliveries/{delivery}", { path })).status;
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      return;
    }
  }
}

interface ActionsProps {
  webhook: WebhookDetail;
  changed: () => Promise<void>;
  watch: (delivery: Delivery) => Promise<void>;
}

type Open = "edit" | "rotate" | "delete" | { secret: string } | null;

function Actions({ webhook, changed, watch }: ActionsProps) {
  const [open, setOpen] = useState<Open>(null);
  const close = () => setOpen(null);
  const closeAndReload = () => {
    close();
    void changed();
  };
  const { busy, trouble, attempt } = useAttempt();
  const path = { id: String(webhook.id) };
  const test = () =>
    attempt(async () => {
      const queued = await ask("POST /webhooks/{id}/test", { path });
      toast("A test message is sent: its delivery is shown below.");
      await changed();
      void watch(queued);
    });
  const enable = () =>
    attempt(async () => {
      await ask("PATCH /webhooks/{id}", { path, body: { enabled: true } as never });
      toast(`${webhook.name} gets the events from now on.`);
      await changed();
    });
  const buttons = (
    <div class="actions">
      {!webhook.enabled && (
        <Act of={webhook} action="update" kind="primary" busy={busy} onAct={enable}>
          Enable again
        </Act>
      )}
      <Act of={webhook} action="test" busy={busy} onAct={test}>
        Send a test
      </Act>
      <Act of={webhook} action="update" onAct={() => setOpen("edit")}>
        Edit …
      </Act>
      <Act of={webhook} action="rotate" onAct={() => setOpen("rotate")}>
        New secret …
      </Act>
      <Act of={webhook} action="delete" kind="danger" onAct={() => setOpen("delete")}>
        Delete …
      </Act>
      <CopyMenu
        of={{
          command: commandLine("opsjobs", "webhooks", "deliveries", webhook.name),
          json: webhook,
        }}
      />
    </div>
  );
  return (
    <>
      {buttons}
      {trouble}
      {open === "edit" && (
        <WebhookForm webhook={webhook} onDone={closeAndReload} onClose={closeAndReload} />
      )}
      {open === "rotate" && (
        <Confirm
          title={`New secret for ${webhook.name}?`}
          verb="Create a new secret"
          // The dialog of the secret takes its place.
          onClose={() => setOpen((now) => (now === "rotate" ? null : now))}
          onConfirm={async () => {
            const made = await ask("POST /webhooks/{id}/rotate", { path, body: {} });
            setOpen({ secret: made.secret ?? "" });
            await changed();
          }}
        >
          <p>
            For a day, messages are signed with the old one as well: give the receiver the new one.
          </p>
        </Confirm>
      )}
      {typeof open === "object" && open && (
        <SecretOnce
          title={`The new secret of ${webhook.name}`}
          secret={open.secret}
          onClose={close}
        >
          The receiver needs it to check that messages come from here.
        </SecretOnce>
      )}
      {open === "delete" && (
        <Confirm
          title={`Delete ${webhook.name}?`}
          verb="Delete"
          danger
          onClose={close}
          onConfirm={async () => {
            await ask("DELETE /webhooks/{id}", { path });
            toast(`${webhook.name} was deleted`);
            go("/webhooks");
          }}
        >
          <p>What is still to be sent is cancelled, and the log of deliveries is deleted.</p>
        </Confirm>
      )}
    </>
  );
}

interface DeliveriesProps {
  deliveries: Listing<Delivery>;
  again: ((delivery: Delivery) => Promise<void>) | null;
}

function Deliveries({ deliveries, again }: DeliveriesProps) {
  const { busy, trouble, attempt } = useAttempt();
  const send = again && ((delivery: Delivery) => attempt(() => again(delivery)));
  return (
    <Panel title="Deliveries" flush>
      {trouble}
      <Loaded resource={deliveries} what="deliveries">
        {({ items }) =>
          items.length ? (
            <Table
              label="Deliveries"
              columns={deliveryColumns(send && { busy, send })}
              rows={items}
              keyOf={(delivery) => String(delivery.id)}
              onMore={deliveries.more}
              width={820}
            />
          ) : (
            <Empty why="There were no deliveries yet. Send a test, or wait for an event." />
          )
        }
      </Loaded>
    </Panel>
  );
}
