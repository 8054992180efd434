/** One trigger: who called it, and what came of it? */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { TriggerCall, TriggerDetail } from "../api/types.ts";
import { Act } from "../parts/act.tsx";
import { useAttempt } from "../parts/attempt.tsx";
import { commandLine } from "../parts/command-line.ts";
import { CopyButton, CopyMenu } from "../parts/copy.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Facts } from "../parts/facts.tsx";
import { Panel } from "../parts/panel.tsx";
import { useTitle } from "../parts/shell.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { VERIFICATIONS } from "../triggers/draft.ts";
import { TriggerForm } from "../triggers/form.tsx";
import { addressOf, TriggerSecret } from "../triggers/secret.tsx";

const REFRESH_SECONDS = 15;

export default function TriggerPage({ id }: { id: string }) {
  const trigger = useResource(
    (signal) => ask("GET /triggers/{id}", { path: { id }, signal }),
    [id],
    REFRESH_SECONDS,
  );
  return (
    <Loaded resource={trigger} what="the trigger">
      {(found) => <Shown trigger={found} onChange={trigger.reload} />}
    </Loaded>
  );
}

interface ShownProps {
  trigger: TriggerDetail;
  onChange: () => Promise<void>;
}

function Shown({ trigger, onChange }: ShownProps) {
  useTitle(trigger.name);
  const address = addressOf(trigger);
  return (
    <div class="stack">
      <div class="head">
        <h1>
          <Text of={trigger.name} />
        </h1>
        {!trigger.enabled && <Status state="disabled" />}
        <span class="dim">
          launches{" "}
          <Link to={`/jobs/${trigger.job_id}`}>
            <Text of={trigger.job_name} />
          </Link>
        </span>
        <Actions trigger={trigger} onChange={onChange} />
      </div>
      {trigger.description && (
        <p class="dim">
          <Text of={trigger.description} />
        </p>
      )}
      <Panel title="Details">
        <Facts
          facts={{
            Address: (
              <>
                <code class="secret">{address}</code>
                <CopyButton text={address} what="address" />
              </>
            ),
            "Callers send": VERIFICATIONS[trigger.verify],
            "Launches as": <Text of={trigger.owner} />,
            "Calls a minute, at most": trigger.max_calls_per_minute,
            Ends: trigger.expires_at ? <Time at={trigger.expires_at} /> : "never",
            Calls: trigger.calls.toLocaleString("en"),
          }}
        />
      </Panel>
      <Calls trigger={trigger} />
    </div>
  );
}

type Open = "edit" | "rotate" | "delete" | { secret: string } | null;

function Actions({ trigger, onChange }: ShownProps) {
  const [open, setOpen] = useState<Open>(null);
  const close = () => setOpen(null);
  const { busy, trouble, attempt } = useAttempt();
  const path = { id: String(trigger.id) };
  const toggle = () =>
    attempt(async () => {
      if (trigger.enabled) await ask("POST /triggers/{id}/disable", { path });
      else await ask("POST /triggers/{id}/enable", { path });
      toast(trigger.enabled ? "Calls are refused from now on." : "Calls launch the job again.");
      await onChange();
    });
  const buttons = (
    <div class="actions">
      <Act of={trigger} action="update" onAct={() => setOpen("edit")}>
        Edit …
      </Act>
      <Act of={trigger} action={trigger.enabled ? "disable" : "enable"} busy={busy} onAct={toggle}>
        {trigger.enabled ? "Disable" : "Enable"}
      </Act>
      <Act of={trigger} action="rotate" onAct={() => setOpen("rotate")}>
        New secret …
      </Act>
      <Act of={trigger} action="delete" kind="danger" onAct={() => setOpen("delete")}>
        Delete …
      </Act>
      <CopyMenu
        of={{
          command: commandLine("opsjobs", "triggers", "calls", String(trigger.id)),
          json: trigger,
        }}
      />
    </div>
  );
  return (
    <>
      {buttons}
      {trouble}
      {open === "edit" && <Edit trigger={trigger} onChange={onChange} onClose={close} />}
      {open === "rotate" && (
        <Confirm
          title={`New secret for ${trigger.name}?`}
          verb="Create a new secret"
          danger
          // The dialog of the secret takes its place.
          onClose={() => setOpen((now) => (now === "rotate" ? null : now))}
          onConfirm={async () => {
            const made = await ask("POST /triggers/{id}/rotate", { path });
            setOpen({ secret: made.secret ?? "" });
            await onChange();
          }}
        >
          <p>Calls with the old one are refused at once. From then on it launches in your name.</p>
        </Confirm>
      )}
      {typeof open === "object" && open && (
        <TriggerSecret trigger={trigger} secret={open.secret} onClose={close} />
      )}
      {open === "delete" && (
        <Confirm
          title={`Delete ${trigger.name}?`}
          verb="Delete"
          danger
          onClose={close}
          onConfirm={async () => {
            await ask("DELETE /triggers/{id}", { path });
            toast(`${trigger.name} was deleted`);
            go(`/jobs/${trigger.job_id}?tab=triggers`);
          }}
        >
          <p>Its address is gone for good. What it has launched stays and goes on.</p>
        </Confirm>
      )}
    </>
  );
}

/** The form needs the job's parameters. */
function Edit({ trigger, onChange, onClose }: ShownProps & { onClose: () => void }) {
  const job = useResource(
    (signal) => ask("GET /jobs/{id}", { path: { id: String(trigger.job_id) }, signal }),
    [trigger.job_id],
  );
  const close = () => {
    onClose();
    void onChange();
  };
  return (
    <Loaded resource={job} what="the job">
      {(found) => <TriggerForm job={found} trigger={trigger} onDone={close} onClose={close} />}
    </Loaded>
  );
}

function Calls({ trigger }: { trigger: TriggerDetail }) {
  const calls = useResource(
    (signal) => ask("GET /triggers/{id}/calls", { path: { id: String(trigger.id) }, signal }),
    [trigger.id, trigger.calls, trigger.last_call?.id],
    REFRESH_SECONDS,
  );
  return (
    <Panel title="Last calls" flush>
      <Loaded resource={calls} what="calls">
        {({ items }) =>
          items.length ? (
            <Table
              label="Calls"
              columns={COLUMNS}
              rows={items}
              keyOf={(call) => String(call.id)}
              width={700}
            />
          ) : (
            <Empty why="There were no calls yet. A call is a POST to the address above, with the secret." />
          )
        }
      </Loaded>
    </Panel>
  );
}

const STATES: Record<string, string> = {
  launched: "ok",
  repeated: "ok",
  ping: "ok",
  ignored: "off",
};

const COLUMNS: readonly Column<TriggerCall>[] = [
  {
    name: "outcome",
    label: "Outcome",
    width: "minmax(124px, 1fr)",
    cell: (call) => <Status state={STATES[call.outcome] ?? call.outcome} label={call.outcome} />,
  },
  {
    name: "why",
    label: "Why",
    width: "minmax(160px, 3fr)",
    cell: (call) => (
      <>
        {call.reason && <Text of={call.reason} />}
        {call.times > 1 && <span class="dim"> {call.times.toLocaleString("en")} times</span>}
      </>
    ),
  },
  {
    name: "execution",
    label: "Execution",
    width: "minmax(90px, 1fr)",
    cell: (call) =>
      call.execution_id !== null && (
        <Link to={`/executions/${call.execution_id}`}>#{call.execution_id}</Link>
      ),
  },
  {
    name: "from",
    label: "From",
    width: "minmax(100px, 1fr)",
    cell: (call) => <Text of={call.address ?? ""} />,
  },
  {
    name: "at",
    label: "When",
    width: "minmax(100px, 1fr)",
    end: true,
    cell: (call) => <Time at={call.at} ago />,
  },
];
