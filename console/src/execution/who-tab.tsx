/** The tab Who: approvals with what they approved, and the rows of the audit log. */
import { ask } from "../api/ask.ts";
import type { Approval, AuditEntry, Execution } from "../api/types.ts";
import { CopyButton } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
import type { ExecutionView } from "./view.ts";

const ROWS = 100;

export function WhoTab({ view, execution }: { view: ExecutionView; execution: Execution }) {
  const approvals = useResource(
    (signal) =>
      ask("GET /approvals", {
        query: { execution_id: [view.id], limit: ROWS, sort: "id" },
        signal,
      }),
    [view.id, execution.status],
  );
  return (
    <div class="stack">
      <Panel title="Approvals">
        <Loaded resource={approvals} what="approvals">
          {({ items }) =>
            items.length ? (
              <ul class="stack">
                {items.map((approval) => (
                  <li key={approval.id}>
                    <ApprovalRow approval={approval} />
                  </li>
                ))}
              </ul>
            ) : (
              <Empty why="It needed no approval." />
            )
          }
        </Loaded>
      </Panel>
      <Panel title="Audit log">
        {mayDo("audit:read", null) ? (
          <Audit id={view.id} status={execution.status} />
        ) : (
          <Empty why="You may not read the audit log. Ask an administrator for audit:read." />
        )}
      </Panel>
    </div>
  );
}

function ApprovalRow({ approval }: { approval: Approval }) {
  const { decisions, hash } = approval;
  return (
    <div class="stack-tight">
      <p class="row">
        <Status state={approval.status} />
        <Link to={`/approvals/${approval.id}`}>Approval {approval.id}</Link>
        <Text of={approval.message} />
        <span class="dim">
          asked for by <Text of={approval.requested_by} /> <Time at={approval.asked_at} />
        </span>
      </p>
      {decisions.map((decision) => (
        <p key={`${decision.by} ${decision.at}`} class="row">
          <Status
            state={decision.approve ? "approved" : "rejected"}
            label={decision.approve ? "approved by" : "rejected by"}
          />
          <b>
            <Text of={decision.by} />
          </b>
          <Time at={decision.at} />
          {decision.reason && (
            <span>
              “<Text of={decision.reason} />”
            </span>
          )}
          {decision.overridden && <span class="tone warn">alone, by safety:override</span>}
        </p>
      ))}
      {hash && (
        <p class="row small dim">
          what was approved: <code>{hash.slice(0, 16)}…</code>
          <CopyButton text={hash} what="hash" />
        </p>
      )}
    </div>
  );
}

function Audit({ id, status }: { id: string; status: string }) {
  const rows = useResource(
    (signal) =>
      ask("GET /audit", {
        query: { thing: ["execution"], thing_id: [id], limit: ROWS },
        signal,
      }),
    [id, status],
  );
  return (
    <Loaded resource={rows} what="the audit log">
      {({ items }) =>
        items.length ? (
          <ul class="stack-tight">
            {items.map((entry) => (
              <li key={entry.id} class="row">
                <AuditRow entry={entry} />
              </li>
            ))}
          </ul>
        ) : (
          <Empty why="It has no rows about this execution." />
        )
      }
    </Loaded>
  );
}

function AuditRow({ entry }: { entry: AuditEntry }) {
  return (
    <>
      <Time at={entry.at} />
      <b>
        <Text of={entry.actor} />
      </b>
      <code>{entry.action}</code>
      {entry.reason && (
        <span>
          “<Text of={entry.reason} />”
        </span>
      )}
      <span class="small dim">
        {entry.address && <>from {entry.address} </>}
        {entry.request_id && (
          <>
            request <code>{entry.request_id.slice(0, 8)}</code>
          </>
        )}
      </span>
    </>
  );
}
