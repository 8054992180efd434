/** What was sent to the outside: each message with its state, its answer, and a way to repeat it. */
import type { Delivery, OutgoingDelivery } from "../api/types.ts";
import { Status } from "./status.tsx";
import type { Column } from "./table.tsx";
import { Text } from "./text.tsx";
import { Time } from "./time.tsx";

type Sent = Delivery | OutgoingDelivery;

/** Sends a delivery again; `busy`: one is being sent. */
export interface Again<One extends Sent> {
  busy: boolean;
  send: (delivery: One) => Promise<void>;
}

/** The columns of a log of deliveries. `again`: send one again; null: the person may not. */
export function deliveryColumns<One extends Sent>(
  again: Again<One> | null,
): readonly Column<One>[] {
  return [
    {
      name: "status",
      label: "State",
      width: "minmax(124px, 1fr)",
      cell: (delivery) => <Status state={delivery.status} />,
    },
    {
      name: "event",
      label: "Event",
      width: "minmax(150px, 2fr)",
      cell: (delivery) => (
        <span>
          <Text of={delivery.event} />
          {delivery.redelivery && <span class="dim"> again</span>}
        </span>
      ),
    },
    {
      name: "answer",
      label: "Answer",
      width: "minmax(160px, 3fr)",
      cell: (delivery) => (
        <span>
          <Text of={answerOf(delivery)} />
          {delivery.attempts > 0 && delivery.status === "pending" && delivery.next_attempt_at && (
            <span class="dim">
              {" "}
              · tried again <Time at={delivery.next_attempt_at} ago />
            </span>
          )}
        </span>
      ),
    },
    {
      name: "attempts",
      label: "Attempts",
      width: "92px",
      end: true,
      cell: (delivery) => delivery.attempts,
    },
    {
      name: "created",
      label: "When",
      width: "minmax(100px, 1fr)",
      end: true,
      cell: (delivery) => <Time at={delivery.created_at} ago />,
    },
    {
      name: "again",
      label: "Actions",
      width: "128px",
      bare: true,
      cell: (delivery) =>
        again &&
        delivery.status !== "pending" && (
          <button
            type="button"
            class="button small"
            aria-label={`Send ${delivery.event} of delivery ${delivery.id} again`}
            disabled={again.busy}
            onClick={() => void again.send(delivery)}
          >
            Send again
          </button>
        ),
    },
  ];
}

function answerOf(delivery: Sent): string {
  if (delivery.error) return delivery.error;
  if (delivery.response_code === null) return "";
  return `${delivery.response_code} ${delivery.response ?? ""}`.trim();
}
