/** One credential: where it is used, and if its source can be reached. */
import { useState } from "preact/hooks";
import { ask, RequestError } from "../api/ask.ts";
import type { Credential, CredentialTest } from "../api/types.ts";
import { Act, hasAction } from "../parts/act.tsx";
import { countWords } from "../parts/counts.ts";
import { Confirm, Dialog } from "../parts/dialog.tsx";
import { Facts } from "../parts/facts.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded, Trouble } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { Bind } from "./bind.tsx";
import { Rotate } from "./forms.tsx";
import { SECRET_FIELDS, typeWords } from "./secrets.ts";

interface DetailsProps {
  id: string;
  onChanged: () => Promise<void>;
  onClose: () => void;
}

export function Details({ id, onChanged, onClose }: DetailsProps) {
  const path = { id };
  const found = useResource((signal) => ask("GET /credentials/{id}", { path, signal }), [id]);
  const [open, setOpen] = useState<"rotate" | "bind" | "delete" | null>(null);
  const credential = found.data.value;
  const changed = async () => {
    await Promise.all([found.reload(), onChanged()]);
  };
  if (credential && open === "rotate")
    return <Rotate credential={credential} onDone={changed} onClose={() => setOpen(null)} />;
  if (credential && open === "bind")
    return <Bind credential={credential} onDone={changed} onClose={() => setOpen(null)} />;
  if (credential && open === "delete")
    return (
      <Confirm
        title={`Delete ${credential.name}?`}
        verb="Delete"
        danger
        onClose={() => setOpen(null)}
        onConfirm={async () => {
          await ask("DELETE /credentials/{id}", { path });
          toast(`Deleted: ${credential.name}`);
          await onChanged();
          onClose();
        }}
      >
        <p>The secret cannot be recovered. A credential in use cannot be deleted.</p>
      </Confirm>
    );
  return (
    <Dialog title={credential?.name ?? "Credential"} onClose={onClose} wide>
      <Loaded resource={found} what="the credential">
        {(data) => (
          <>
            <CredentialFacts credential={data} />
            {hasAction(data, "update") && <Usage id={id} />}
            {data.type !== "secret" && hasAction(data, "test") && <Test id={id} />}
          </>
        )}
      </Loaded>
      <div class="actions">
        {credential && (
          <>
            <Act of={credential} action="delete" kind="danger" onAct={() => setOpen("delete")}>
              Delete …
            </Act>
            <Act of={credential} action="bind" onAct={() => setOpen("bind")}>
              Bind …
            </Act>
            {SECRET_FIELDS[credential.type] && (
              <Act of={credential} action="rotate" onAct={() => setOpen("rotate")}>
                New secret …
              </Act>
            )}
          </>
        )}
        <button type="button" class="button" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}

function CredentialFacts({ credential }: { credential: Credential }) {
  const bound = Object.entries(credential.bound_to)
    .filter(([, names]) => names.length)
    .map(([kind, names]) => `${kind} ${names.join(", ")}`)
    .join("; ");
  return (
    <Facts
      facts={{
        Type: typeWords(credential.type),
        "Logs in as": credential.username ? <Text of={credential.username} /> : "–",
        Source: credential.source ? JSON.stringify(credential.source) : "stored here, encrypted",
        "Bound to": bound ? <Text of={bound} /> : "anything",
        Version: credential.version,
        "Last used": <Time at={credential.last_used_at} ago />,
        Changed: <Time at={credential.updated_at} />,
      }}
    />
  );
}

function Usage({ id }: { id: string }) {
  const usage = useResource(
    (signal) => ask("GET /credentials/{id}/usage", { path: { id }, signal }),
    [id],
  );
  return (
    <section>
      <h3>Used by</h3>
      <Loaded resource={usage} what="where it is used">
        {({ targets, jobs, total }) => (
          <>
            {total.targets + total.jobs === 0 && <p class="dim">Nothing uses it.</p>}
            {total.targets > 0 && (
              <p>
                {countWords(total.targets, "target")}:{" "}
                {targets.map((target, index) => (
                  <span key={target.id}>
                    {index > 0 && ", "}
                    <Link to={`/targets/${encodeURIComponent(target.name)}`}>
                      <Text of={target.name} />
                    </Link>
                  </span>
                ))}
                {total.targets > targets.length && " …"}
              </p>
            )}
            {total.jobs > 0 && (
              <p>
                {countWords(total.jobs, "job")}:{" "}
                {jobs.map((job, index) => (
                  <span key={job.id}>
                    {index > 0 && ", "}
                    <Link to={`/jobs/${job.id}`}>
                      <Text of={job.name} />
                    </Link>
                  </span>
                ))}
                {total.jobs > jobs.length && " …"}
              </p>
            )}
          </>
        )}
      </Loaded>
    </section>
  );
}

/** Open the secret as a login would, without any machine. */
function Test({ id }: { id: string }) {
  const [result, setResult] = useState<CredentialTest | null>(null);
  const [error, setError] = useState<RequestError | null>(null);
  const [busy, setBusy] = useState(false);
  const test = async () => {
    setBusy(true);
    setError(null);
    try {
      setResult(await ask("POST /credentials/{id}/test", { path: { id } }));
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <section aria-live="polite">
      <p class="row">
        <button type="button" class="button small" disabled={busy} onClick={test}>
          {busy ? "Testing …" : "Test"}
        </button>
        <span class="dim">Reads the secret as a login would, without contacting a machine.</span>
      </p>
      {error && <Trouble error={error} />}
      {result?.steps.map((step) => (
        <p key={step.name}>
          <Status state={step.ok ? "completed" : "failed"} label={step.name} />{" "}
          <span class="dim">{Math.round(step.ms)} ms</span> {step.error && <Text of={step.error} />}
        </p>
      ))}
      {result?.public_key && <code class="secret">{result.public_key}</code>}
    </section>
  );
}
