/** One approval: is it safe, who asks, who may decide? */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { overrideWords } from "../api/override.ts";
import type { ApprovalDetail } from "../api/types.ts";
import { Findings } from "../execution/findings.tsx";
import { titleOf } from "../execution/name.ts";
import { Name } from "../execution/name-shown.tsx";
import { CopyMenu } from "../parts/copy.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Facts } from "../parts/facts.tsx";
import { inNameOrder } from "../parts/natural-order.ts";
import { Panel } from "../parts/panel.tsx";
import { useTitle } from "../parts/shell.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";
import { type Resource, useResource } from "../state/resource.ts";
import "../style/access.css";

const REFRESH_SECONDS = 15;
type Verb = "approve" | "reject" | "override";

export default function ApprovalPage({ id }: { id: string }) {
  const approval = useResource(
    (signal) => ask("GET /approvals/{id}", { path: { id }, signal }),
    [id],
    REFRESH_SECONDS,
  );
  useTitle(`Approval ${id}`);
  return (
    <div class="stack">
      <Loaded resource={approval} what={`approval ${id}`} heading={`Approval ${id}`}>
        {(found) => (
          <>
            <Head approval={found} resource={approval} />
            <WhoAndWhen approval={found} />
            <WouldRun of={found.would_run} />
            <Decisions of={found} />
          </>
        )}
      </Loaded>
    </div>
  );
}

interface HeadProps {
  approval: ApprovalDetail;
  resource: Resource<ApprovalDetail>;
}

function Head({ approval, resource }: HeadProps) {
  const [deciding, setDeciding] = useState<Verb | null>(null);
  const pending = approval.status === "pending";
  const command = `opsjobs approvals show ${approval.id}`;
  return (
    <>
      <div class="head">
        <h1>
          Approval {approval.id} · <Text of={titleOf(approval)} />
        </h1>
        <Status state={approval.status} />
        <span class="actions">
          {pending && <Decide approval={approval} onDecide={setDeciding} />}
          <CopyMenu of={{ command, json: approval }} />
        </span>
      </div>
      <p class="sentence">
        <Text of={approval.message} />
      </p>
      {pending && <WhyNot of={approval} />}
      {deciding && (
        <DecideDialog
          verb={deciding}
          approval={approval}
          resource={resource}
          onClose={() => setDeciding(null)}
        />
      )}
    </>
  );
}

const WORDS: Record<Verb, string> = {
  approve: "Approve …",
  reject: "Reject …",
  override: "Override …",
};

function Decide({ approval, onDecide }: { approval: ApprovalDetail; onDecide: (v: Verb) => void }) {
  // Who may approve needs no override.
  const verbs = (["approve", "reject", "override"] as const).filter(
    (verb) => verb !== "override" || "approve" in approval.cannot,
  );
  return (
    <>
      {verbs.map((verb) => {
        const refused = approval.cannot[verb];
        if (!refused && !approval.can.includes(verb)) return null;
        return (
          <button
            key={verb}
            type="button"
            class={verb === "approve" ? "button primary" : "button"}
            disabled={refused !== undefined}
            title={refused?.detail}
            onClick={() => onDecide(verb)}
          >
            {WORDS[verb]}
          </button>
        );
      })}
    </>
  );
}

/** Why this person cannot approve. */
function WhyNot({ of }: { of: ApprovalDetail }) {
  const refused = of.cannot["approve"];
  if (of.can.includes("approve")) return null;
  return (
    <p class="why-not">
      <b>You cannot approve this.</b>{" "}
      {refused ? (
        <Text of={overrideWords(refused.detail)} />
      ) : (
        "Your role does not hold approvals:decide. Ask an administrator."
      )}
    </p>
  );
}

interface DecideDialogProps {
  verb: Verb;
  approval: ApprovalDetail;
  resource: Resource<ApprovalDetail>;
  onClose: () => void;
}

const TITLES: Record<Verb, string> = {
  approve: "Approve this?",
  reject: "Reject this?",
  override: "Override the rules and approve alone?",
};

function DecideDialog({ verb, approval, resource, onClose }: DecideDialogProps) {
  const { total_targets } = approval.would_run;
  const decide = async (reason: string) => {
    const path = { id: String(approval.id) };
    // The hash is that of what this page shows: 409 if it has changed since.
    const body = { hash: approval.hash, reason: reason || null };
    if (verb === "reject") await ask("POST /approvals/{id}/reject", { path, body });
    else {
      const override_safety = verb === "override";
      await ask("POST /approvals/{id}/approve", { path, body: { ...body, override_safety } });
    }
    toast(verb === "reject" ? "Rejected." : "Approved.");
    await resource.reload();
  };
  return (
    <Confirm
      title={TITLES[verb]}
      verb={verb === "reject" ? "Reject" : verb === "override" ? "Override" : "Approve"}
      danger={verb !== "approve"}
      count={verb === "reject" ? 1 : total_targets}
      careful={verb === "override"}
      reason={verb === "override" ? "required" : "optional"}
      onConfirm={decide}
      onClose={onClose}
    >
      <p>
        <Text of={titleOf(approval)} /> on {total_targets.toLocaleString("en")}{" "}
        {total_targets === 1 ? "target" : "targets"}.{" "}
        {verb === "reject"
          ? "This is final: what waits for it is cancelled."
          : approval.approvers > 1 && verb === "approve"
            ? `${approval.approvers} people have to approve.`
            : "It starts at once."}
      </p>
    </Confirm>
  );
}

function WhoAndWhen({ approval }: { approval: ApprovalDetail }) {
  const { authors } = approval.would_run;
  const named = [...approval.roles.map((role) => `the role ${role}`), ...approval.users];
  const count = approval.approvers === 1 ? "1 person" : `${approval.approvers} different people`;
  const written = authors.map((author) => (
    <div key={author.wrote}>
      <Text of={author.name} />{" "}
      <span class="dim">
        <Text of={author.wrote} />
      </span>
    </div>
  ));
  const facts = {
    "Requested by": (
      <>
        <Text of={approval.requested_by} />, <Time at={approval.asked_at} ago />
      </>
    ),
    Execution: (
      <>
        <Link to={`/executions/${approval.execution_id}`}>
          <Name of={approval} id={approval.execution_id} />
        </Link>
        {approval.action && (
          <>
            , at the step <code>{approval.action}</code>
          </>
        )}
      </>
    ),
    "Must approve": count + (named.length > 0 ? `: ${named.join(" or ")}` : ""),
    Expires: <Time at={approval.expires_at} />,
    Authors: authors.length ? written : <span class="dim">unknown</span>,
    Hash: <code class="hash">{approval.hash ?? "none"}</code>,
  };
  return (
    <Panel title="Who and when">
      <Facts facts={facts} />
    </Panel>
  );
}

function WouldRun({ of }: { of: ApprovalDetail["would_run"] }) {
  const hidden = of.total_targets - of.targets.length;
  return (
    <Panel title="What would run">
      <Findings findings={of.findings} />
      {of.actions.map((action, index) => (
        <pre key={index} class="action" tabIndex={0}>
          <Text of={textOf(action)} />
        </pre>
      ))}
      {Object.keys(of.parameters).length > 0 && (
        <pre class="action" tabIndex={0}>
          <Text of={JSON.stringify(of.parameters, null, 2)} />
        </pre>
      )}
      <p class="on-targets">
        <b>
          On {of.total_targets.toLocaleString("en")} {of.total_targets === 1 ? "target" : "targets"}
        </b>
      </p>
      <ul class="targets-list">
        {inNameOrder(of.targets, (target) => target.name).map((target) => (
          <li key={target.id}>
            <Text of={target.name} /> <span class="small dim">{target.host}</span>
          </li>
        ))}
        {hidden > 0 && <li class="dim">and {hidden.toLocaleString("en")} more</li>}
      </ul>
    </Panel>
  );
}

/** Return the program of an action, or all of it. */
function textOf(action: Record<string, unknown>): string {
  const program = action["command"] ?? action["script"];
  const key = action["key"] ? `# ${action["key"]}\n` : "";
  return key + (typeof program === "string" ? program : JSON.stringify(action, null, 2));
}

function Decisions({ of }: { of: ApprovalDetail }) {
  return (
    <Panel title="Decisions">
      {of.decisions.length ? (
        <ul class="decisions">
          {of.decisions.map((decision) => (
            <li key={decision.at}>
              <Status state={decision.approve ? "approved" : "rejected"} />{" "}
              <Text of={decision.by} />
              {decision.overridden && <b> · by override</b>}, <Time at={decision.at} ago />
              {decision.reason && (
                <>
                  {": "}
                  <Text of={decision.reason} />
                </>
              )}
            </li>
          ))}
        </ul>
      ) : (
        <p class="dim">None yet.</p>
      )}
    </Panel>
  );
}
