/** What can be done about a target: test it, trust its keys, let logins through, hold its runs. */
import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import type { HostKey, TargetDetail, TargetTest } from "../api/types.ts";
import { Act } from "../parts/act.tsx";
import { countWords } from "../parts/counts.ts";
import { Confirm, Dialog } from "../parts/dialog.tsx";
import { Command } from "../parts/empty.tsx";
import { Field, Form } from "../parts/form.tsx";
import { Icon } from "../parts/icon.tsx";
import { Panel } from "../parts/panel.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { Trouble } from "../parts/trouble.tsx";
import { go, Link, query, setQuery } from "../router.tsx";
import { mayDo, mayDoEverywhere } from "../state/rights.ts";
import { TargetForm } from "./form.tsx";
import { TestSteps, testTitle } from "./test.tsx";

interface ActionsProps {
  target: TargetDetail;
  onChange: () => void;
}

type Shown = { test: TargetTest } | { keys: HostKey[] } | { error: RequestError } | null;

export function TargetActions({ target, onChange }: ActionsProps) {
  const [busy, setBusy] = useState(false);
  const [shown, setShown] = useState<Shown>(null);
  const [open, setOpen] = useState<"hold" | "edit" | "delete" | null>(null);
  const close = () => setOpen(null);
  const path = { id: target.id };
  const { health } = target;
  const attempt = async (work: () => Promise<Shown>) => {
    setBusy(true);
    setShown(null);
    try {
      setShown(await work());
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setShown({ error: failed });
    } finally {
      setBusy(false);
      onChange();
    }
  };
  const test = () =>
    attempt(async () => ({ test: await ask("POST /targets/{id}/test", { path }) }));
  const scan = () =>
    attempt(async () => ({
      keys: (await ask("POST /targets/{id}/scan-host-keys", { path })).host_keys,
    }));
  const reset = () =>
    attempt(async () => {
      await ask("POST /circuits/{target}/reset", { path: { target: target.id } });
      toast("The circuit is closed: the next run logs in again.");
      return null;
    });
  const release = () =>
    attempt(async () => {
      await ask("POST /targets/{id}/maintenance", { path, body: { off: true } });
      toast("The maintenance has ended.");
      return null;
    });
  // This machine shows no keys, and http has no certificate.
  const hasKeys = target.transport !== "local" && target.winrm?.scheme !== "http";
  // A new target is of no use before its keys are trusted.
  const isNew = query.value.get("new") === "1";
  useEffect(() => {
    if (!isNew) return;
    setQuery({ new: null });
    if (hasKeys && target.can.includes("scan_host_keys")) void scan();
  }, [isNew]);
  const letters = health?.dead_letters ?? 0;
  return (
    <>
      <div class="row">
        {mayDo("commands:run", target.labels) && (
          <Link class="button" to={`/launch?t=${encodeURIComponent(target.name)}`}>
            Launch here …
          </Link>
        )}
        <Act of={target} action="test" busy={busy} onAct={test}>
          Test
        </Act>
        {hasKeys && (
          <Act of={target} action="scan_host_keys" busy={busy} onAct={scan}>
            Compare keys
          </Act>
        )}
        {health?.circuit && (
          <Act of={target} action="reset_circuits" busy={busy} onAct={reset}>
            Reset circuit
          </Act>
        )}
        {health?.maintenance ? (
          <Act of={target} action="maintain" busy={busy} onAct={release}>
            End maintenance
          </Act>
        ) : (
          <Act of={target} action="maintain" onAct={() => setOpen("hold")}>
            Maintenance …
          </Act>
        )}
        <Act of={target} action="update" onAct={() => setOpen("edit")}>
          Edit …
        </Act>
        <Act of={target} action="delete" kind="danger" onAct={() => setOpen("delete")}>
          Delete …
        </Act>
        {letters > 0 && mayDo("executions:read") && (
          <Link to={`/dead-letters?q=target:${encodeURIComponent(target.id)}`}>
            {letters} {letters === 1 ? "dead letter" : "dead letters"}
          </Link>
        )}
      </div>
      {busy && <p role="status">Connecting to {target.host} …</p>}
      {shown && <Outcome shown={shown} target={target} onChange={onChange} onTrusted={test} />}
      {open === "hold" && <MaintenanceDialog target={target} onChange={onChange} onClose={close} />}
      {open === "edit" && (
        <TargetForm
          target={target}
          onDone={({ name }) => {
            close();
            if (name === target.name) onChange();
            else go(`/targets/${encodeURIComponent(name)}`);
          }}
          onClose={() => {
            close();
            onChange();
          }}
        />
      )}
      {open === "delete" && <DeleteDialog target={target} onClose={close} />}
    </>
  );
}

interface OutcomeProps extends ActionsProps {
  /** Try it, now that it is trusted. */
  onTrusted: () => Promise<void>;
}

function Outcome({ shown, ...of }: OutcomeProps & { shown: NonNullable<Shown> }) {
  if ("error" in shown) return <Trouble error={shown.error} />;
  if ("keys" in shown && of.target.winrm) return <Certificate shown={shown.keys[0]!} {...of} />;
  if ("keys" in shown) return <Keys keys={shown.keys} {...of} />;
  return (
    <Panel title={testTitle(shown.test)}>
      <TestSteps test={shown.test} />
      {shown.test.steps.some((step) => step.name === "auth" && !step.ok) && (
        <WrongLogin credential={of.target.credential} />
      )}
    </Panel>
  );
}

/** A login that was refused: the way to its credential. */
function WrongLogin({ credential }: { credential: string | null }) {
  if (credential === null || !mayDoEverywhere("credentials:use")) return null;
  return (
    <p>
      <Link to={`/credentials?name=${encodeURIComponent(credential)}`}>
        Show the credential <Text of={credential} />
      </Link>
    </p>
  );
}

/** The keys that the machine shows now, beside those that are trusted. */
function Keys({ keys, target, onTrusted }: OutcomeProps & { keys: HostKey[] }) {
  const blobOf = (line: string) => line.split(" ").slice(0, 2).join(" ");
  const known = new Set(target.host_keys.map(blobOf));
  const unknown = keys.filter((one) => !known.has(blobOf(one.key)));
  const trust = async () => {
    await ask("PATCH /targets/{id}", {
      path: { id: target.id },
      body: { host_keys: [...target.host_keys, ...unknown.map((one) => one.key)] },
    });
    toast(`${target.name}: ${countWords(unknown.length, "key")} trusted.`);
    await onTrusted();
  };
  return (
    <Panel title={unknown.length ? "Keys that are not trusted yet" : "All its keys are trusted"}>
      <ul class="stack-tight">
        {keys.map((one) => (
          <li key={one.key} class="row">
            <span class={`tone ${known.has(blobOf(one.key)) ? "ok" : "warn"}`}>
              <Icon name={known.has(blobOf(one.key)) ? "ok" : "warn"} />
            </span>
            <code>{one.fingerprint}</code> <span class="dim">{kindOf(one.key)}</span>
          </li>
        ))}
      </ul>
      {unknown.length > 0 && (
        <Form verb={`Trust ${countWords(unknown.length, "key")} and test`} onSubmit={trust}>
          {() => (
            <>
              <p>{COMPARE}</p>
              <Command
                intro="On the machine:"
                text={`ssh-keygen -lf /etc/ssh/ssh_host_${kindOf(unknown[0]!.key)}_key.pub`}
              />
            </>
          )}
        </Form>
      )}
    </Panel>
  );
}

/** The kind of a key, as files of OpenSSH are named: ed25519, ecdsa, rsa. */
function kindOf(key: string): string {
  const [algorithm = ""] = key.split(" ");
  return ["ed25519", "ecdsa", "rsa"].find((kind) => algorithm.includes(kind)) ?? algorithm;
}

/** The certificate that a Windows host shows now, beside the one that is trusted. */
function Certificate({ shown, target, onTrusted }: OutcomeProps & { shown: HostKey }) {
  const digits = shown.key.split(" ")[1] ?? "";
  const pinned = target.winrm?.fingerprint ?? null;
  const trust = async () => {
    await ask("PATCH /targets/{id}", {
      path: { id: target.id },
      body: { winrm: { fingerprint: digits }, version: target.version } as never,
    });
    toast(`${target.name}: this certificate is trusted.`);
    await onTrusted();
  };
  if (pinned === digits)
    return (
      <Panel title="Its certificate is trusted">
        <code>SHA256 {shown.fingerprint}</code>
      </Panel>
    );
  return (
    <Panel title={pinned ? "Its certificate is another one" : "Its certificate"}>
      <p>
        <code>SHA256 {shown.fingerprint}</code>
      </p>
      <Form verb={pinned ? "Trust this one instead" : "Trust this one only"} onSubmit={trust}>
        {() => <p>{COMPARE}</p>}
      </Form>
    </Panel>
  );
}

const COMPARE =
  "Compare the fingerprints with those on the machine itself before you trust them: " +
  "whoever holds such a key gets the commands and secrets of jobs.";

/** What depends on it is said before: past runs stay, targets behind it refuse this. */
function DeleteDialog({ target, onClose }: { target: TargetDetail; onClose: () => void }) {
  const held = target.health?.waiting_runs ?? 0;
  return (
    <Confirm
      title={`Delete ${target.name}?`}
      verb="Delete"
      danger
      onClose={onClose}
      onConfirm={async () => {
        await ask("DELETE /targets/{id}", { path: { id: target.id } });
        toast(`${target.name} was deleted`);
        go("/targets");
      }}
    >
      <p>
        Its past runs stay. Jobs that name it are refused until they are changed; jobs that find
        targets by label or group no longer find it.
      </p>
      {held > 0 && <p class="tone warn">{held} runs wait for it now.</p>}
      {target.groups.length > 0 && (
        <p>
          It is in the groups <Text of={target.groups.join(", ")} />.
        </p>
      )}
    </Confirm>
  );
}

function MaintenanceDialog({ target, onChange, onClose }: ActionsProps & { onClose: () => void }) {
  const [duration, setDuration] = useState("2h");
  const [reason, setReason] = useState("");
  const hold = async () => {
    await ask("POST /targets/{id}/maintenance", {
      path: { id: target.id },
      body: {
        ...(duration.trim() && { duration: duration.trim() }),
        ...(reason.trim() && { reason: reason.trim() }),
      },
    });
    toast(`${target.name} is under maintenance.`);
    onChange();
    onClose();
  };
  return (
    <Dialog title={`Maintenance of ${target.name}`} onClose={onClose}>
      <Form verb="Begin" onSubmit={hold} onCancel={onClose}>
        {() => (
          <>
            <p>Its runs wait until it ends. Runs that have started continue.</p>
            <Field label="For" hint="Such as 30m or 2h; empty: until it is ended">
              <input
                class="input"
                value={duration}
                onInput={(event) => setDuration(event.currentTarget.value)}
              />
            </Field>
            <Field label="Reason">
              <input
                class="input"
                value={reason}
                maxLength={2_000}
                onInput={(event) => setReason(event.currentTarget.value)}
              />
            </Field>
          </>
        )}
      </Form>
    </Dialog>
  );
}
