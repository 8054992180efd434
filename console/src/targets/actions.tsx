/** What can be done about a target: test it, trust its keys, let logins through, hold its runs. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import type { HostKey, ShownTarget, TargetTest } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Field, Form } from "../parts/form.tsx";
import { Icon } from "../parts/icon.tsx";
import { Panel } from "../parts/panel.tsx";
import { toast } from "../parts/toast.tsx";
import { Trouble } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";
import { mayDo } from "../state/rights.ts";
import { TestSteps, testTitle } from "./test.tsx";

interface ActionsProps {
  target: ShownTarget;
  onChange: () => void;
}

type Shown = { test: TargetTest } | { keys: HostKey[] } | { error: RequestError } | null;

export function TargetActions({ target, onChange }: ActionsProps) {
  const [busy, setBusy] = useState(false);
  const [shown, setShown] = useState<Shown>(null);
  const [holding, setHolding] = useState(false);
  const path = { id: target.id };
  const { health } = target;
  const attempt = async (work: () => Promise<Shown>) => {
    setBusy(true);
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
  const manages = mayDo("targets:manage", target.labels);
  const letters = health?.dead_letters ?? 0;
  return (
    <>
      <div class="row">
        {mayDo("jobs:execute", target.labels) && (
          <Link class="button" to={`/launch?t=${encodeURIComponent(target.name)}`}>
            Launch here …
          </Link>
        )}
        {manages && (
          <>
            <button type="button" class="button" disabled={busy} aria-busy={busy} onClick={test}>
              Test
            </button>
            {target.transport !== "local" && (
              <button type="button" class="button" disabled={busy} onClick={scan}>
                Compare keys
              </button>
            )}
            {health?.circuit && (
              <button type="button" class="button" disabled={busy} onClick={reset}>
                Reset circuit
              </button>
            )}
            {health?.maintenance ? (
              <button type="button" class="button" disabled={busy} onClick={release}>
                End maintenance
              </button>
            ) : (
              <button type="button" class="button" onClick={() => setHolding(true)}>
                Maintenance …
              </button>
            )}
          </>
        )}
        {letters > 0 && mayDo("executions:read") && (
          <Link to={`/dead-letters?q=target:${encodeURIComponent(target.id)}`}>
            {letters} {letters === 1 ? "dead letter" : "dead letters"}
          </Link>
        )}
      </div>
      {shown && <Outcome shown={shown} target={target} onChange={onChange} />}
      {holding && (
        <MaintenanceDialog target={target} onChange={onChange} onClose={() => setHolding(false)} />
      )}
    </>
  );
}

function Outcome({ shown, target, onChange }: ActionsProps & { shown: NonNullable<Shown> }) {
  if ("error" in shown) return <Trouble error={shown.error} />;
  if ("keys" in shown) return <Keys keys={shown.keys} target={target} onChange={onChange} />;
  return (
    <Panel title={testTitle(shown.test)}>
      <TestSteps test={shown.test} />
    </Panel>
  );
}

/** The keys that the machine shows now, beside those that are trusted. */
function Keys({ keys, target, onChange }: ActionsProps & { keys: HostKey[] }) {
  const blobOf = (line: string) => line.split(" ").slice(0, 2).join(" ");
  const known = new Set(target.host_keys.map(blobOf));
  const unknown = keys.filter((one) => !known.has(blobOf(one.key)));
  const trust = async () => {
    await ask("PATCH /targets/{id}", {
      path: { id: target.id },
      body: { host_keys: [...target.host_keys, ...unknown.map((one) => one.key)] },
    });
    toast(`${target.name}: ${unknown.length} keys are trusted.`);
    onChange();
  };
  return (
    <Panel title={unknown.length ? "Keys that are not trusted yet" : "All its keys are trusted"}>
      <ul class="stack-tight">
        {keys.map((one) => (
          <li key={one.key} class="row">
            <span class={`tone ${known.has(blobOf(one.key)) ? "ok" : "warn"}`}>
              <Icon name={known.has(blobOf(one.key)) ? "ok" : "warn"} />
            </span>
            <code>{one.fingerprint}</code>
          </li>
        ))}
      </ul>
      {unknown.length > 0 && (
        <Form verb={`Trust ${unknown.length}`} onSubmit={trust}>
          {() => (
            <p>
              Compare the fingerprints with those on the machine itself before you trust them:
              whoever holds such a key gets the commands and secrets of jobs.
            </p>
          )}
        </Form>
      )}
    </Panel>
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
