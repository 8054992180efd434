/** Approvals: what waits for a decision, and what was decided? */
import type { Approval } from "../api/types.ts";
import { Name } from "../execution/name-shown.tsx";
import { Empty } from "../parts/empty.tsx";
import { ListPage } from "../parts/list-page.tsx";
import { Status } from "../parts/status.tsx";
import type { Column } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Link, setQuery } from "../router.tsx";
import { approvalsWaiting } from "../state/approvals-waiting.ts";
import { useFilteredList } from "../state/filtered-list.ts";
import type { FilterWord } from "../state/list-filter.ts";
import { mayDo } from "../state/rights.ts";

const REFRESH_SECONDS = 15;
const WORDS: readonly FilterWord[] = [
  {
    word: "status",
    parameter: "status",
    values: ["pending", "approved", "rejected", "expired", "cancelled"],
  },
  { word: "execution", parameter: "execution_id", kind: "number", hint: "its number" },
  { word: "kind", parameter: "kind", values: ["launch", "action"] },
];
const CAN: FilterWord = { word: "can", parameter: "can", values: ["approve"] };
const MINE = "can:approve";

export default function Approvals() {
  const approvals = useFilteredList("GET /approvals", {
    words: mayDo("approvals:decide") ? [...WORDS, CAN] : WORDS,
    everySeconds: REFRESH_SECONDS,
  });
  return (
    <ListPage
      title="Approvals"
      rows="approvals"
      of={approvals}
      placeholder="Such as status:pending execution:17"
      above={() => <ForMe filter={approvals.filter} />}
      columns={COLUMNS}
      keyOf={(approval) => String(approval.id)}
      pathOf={(approval) => `/approvals/${approval.id}`}
      width={800}
      empty={
        <Empty why="No approval has been requested yet. A job's policy requests one before it starts, and so does the safety check for a dangerous command." />
      }
    />
  );
}

/** A button for the approvals that wait for this person. */
function ForMe({ filter }: { filter: string }) {
  if (!mayDo("approvals:decide")) return null;
  const on = filter === MINE;
  if (!on && approvalsWaiting.value === 0) return null;
  return (
    <p>
      <button
        type="button"
        class="button small"
        aria-pressed={on}
        onClick={() => setQuery({ q: on ? null : MINE }, { replace: false })}
      >
        {approvalsWaiting.value.toLocaleString("en")} I may approve
      </button>
    </p>
  );
}

const COLUMNS: readonly Column<Approval>[] = [
  {
    name: "what",
    label: "Request",
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
    width: "minmax(124px, 1fr)",
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
    label: "Requested",
    width: "minmax(90px, 1fr)",
    end: true,
    cell: (approval) => <Time at={approval.asked_at} ago />,
  },
  {
    name: "until",
    label: "Expires",
    width: "minmax(176px, 1fr)",
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
