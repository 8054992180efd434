/** Approve or reject what the execution waits for. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { ApprovalDetail } from "../api/types.ts";
import { Confirm } from "../parts/dialog.tsx";
import { firstNames } from "../parts/natural-order.ts";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { Findings } from "./findings.tsx";
import type { ExecutionView } from "./view.ts";

const ACTIONS_SHOWN = 5;

export function DecideButtons({ view, approval }: { view: ExecutionView; approval: string }) {
  const [decision, setDecision] = useState<"approve" | "reject" | null>(null);
  const asked = useResource(
    (signal) => ask("GET /approvals/{id}", { path: { id: approval }, signal }),
    [approval],
  );
  const can = asked.data.value?.can ?? [];
  const close = () => {
    setDecision(null);
    void asked.reload();
  };
  return (
    <>
      <Link class="button" to={`/approvals/${approval}`}>
        Show
      </Link>
      {can.includes("approve") && (
        <button type="button" class="button primary" onClick={() => setDecision("approve")}>
          Approve
        </button>
      )}
      {can.includes("reject") && (
        <button type="button" class="button danger" onClick={() => setDecision("reject")}>
          Reject
        </button>
      )}
      {decision && (
        <Decide view={view} id={approval} approve={decision === "approve"} onClose={close} />
      )}
    </>
  );
}

interface DecideProps {
  view: ExecutionView;
  id: string;
  approve: boolean;
  onClose: () => void;
}

function Decide({ view, id, approve, onClose }: DecideProps) {
  const asked = useResource((signal) => ask("GET /approvals/{id}", { path: { id }, signal }), [id]);
  const found = asked.data.value;
  const decide = async (reason: string) => {
    const body = { ...(reason && { reason }), ...(found?.hash && { hash: found.hash }) };
    const given = { path: { id }, body };
    if (approve) await ask("POST /approvals/{id}/approve", given);
    else await ask("POST /approvals/{id}/reject", given);
    await view.execution.reload();
    toast(approve ? "Approved." : "Rejected.");
  };
  return (
    <Confirm
      title={approve ? "Approve?" : "Reject?"}
      verb={approve ? "Approve" : "Reject"}
      danger={!approve}
      count={approve ? (found?.would_run.total_targets ?? 0) : 1}
      careful={approve && (found?.would_run.findings.length ?? 0) > 0}
      reason={approve ? "optional" : "required"}
      onConfirm={decide}
      onClose={onClose}
    >
      <Loaded resource={asked} what="what would run">
        {(approval) => <WouldRun approval={approval} />}
      </Loaded>
    </Confirm>
  );
}

function WouldRun({ approval }: { approval: ApprovalDetail }) {
  const { actions, targets, total_targets, findings, authors } = approval.would_run;
  const names = targets.map((target) => target.name);
  return (
    <div class="stack-tight">
      {approval.message && (
        <p>
          <Text of={approval.message} />
        </p>
      )}
      <p>
        <b>{total_targets.toLocaleString("en")} targets</b>:{" "}
        <Text of={firstNames(names, total_targets)} />
      </p>
      {actions.slice(0, ACTIONS_SHOWN).map((action) => (
        <pre key={String(action["key"])} class="command">
          <Text of={String(action["command"] ?? action["type"])} />
        </pre>
      ))}
      {actions.length > ACTIONS_SHOWN && (
        <p class="dim">{actions.length - ACTIONS_SHOWN} more actions</p>
      )}
      <Findings findings={findings} />
      <p class="small dim">
        Asked for by <Text of={approval.requested_by} /> <Time at={approval.asked_at} ago />
        {authors.length > 0 && (
          <>
            , written by <Text of={authors.map((author) => author.name).join(", ")} />
          </>
        )}
        . {approval.approvers} {approval.approvers === 1 ? "person has" : "people have"} to approve;{" "}
        {approval.decisions.filter((one) => one.approve).length} did.
      </p>
    </div>
  );
}
