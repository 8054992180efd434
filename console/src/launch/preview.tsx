/** What a launch would do: hosts, waves, commands, changes since the last time, findings. */
import { useRef, useState } from "preact/hooks";
import { RequestError } from "../api/problem.ts";
import type { Execution, Preview as PreviewAnswer } from "../api/types.ts";
import { Findings } from "../execution/findings.tsx";
import { Confirm, TYPED_FROM } from "../parts/dialog.tsx";
import { durationWords } from "../parts/moment.ts";
import { firstNames } from "../parts/natural-order.ts";
import { useSettled } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded, Trouble } from "../parts/trouble.tsx";
import { go } from "../router.tsx";
import { type Resource, useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
import { byCommand } from "./commands.ts";

const COMMANDS_SHOWN = 20;
/** Targets of one command. */
const OF_COMMAND_SHOWN = 3;

type Body = Record<string, unknown>;
type Send = (
  body: Body,
  options: { idempotencyKey?: string; signal?: AbortSignal },
) => Promise<Execution>;

interface Previewed {
  /** The preview of the request as it was when typing paused; null while it is incomplete. */
  resource: Resource<PreviewAnswer | null>;
  /** The preview of the request as it is now; null while there is none. */
  answer: PreviewAnswer | null;
}

/** Return the preview of a request, asked for when typing pauses. */
export function usePreview(body: Body | null, send: Send): Previewed {
  const key = JSON.stringify(body);
  const settled = useSettled(key, key);
  const resource = useResource(
    async (signal) => {
      const asked = JSON.parse(settled) as Body | null;
      if (asked === null) return null;
      return (await send({ ...asked, dry_run: true }, { signal })) as unknown as PreviewAnswer;
    },
    [settled],
  );
  return { resource, answer: settled === key ? resource.data.value : null };
}

/** The preview. `incomplete`: what is still missing. */
export function Preview({
  resource,
  incomplete,
}: {
  resource: Resource<PreviewAnswer | null>;
  incomplete: string | null;
}) {
  if (incomplete !== null) return <p class="dim">{incomplete}</p>;
  return (
    <Loaded resource={resource} what="what would run">
      {(preview) => (preview === null ? null : <Shown preview={preview} />)}
    </Loaded>
  );
}

function Shown({ preview }: { preview: PreviewAnswer }) {
  const { targets, waves, commands, commands_total, changes, estimate, verdict } = preview;
  const distinct = byCommand(commands);
  const shown = distinct.slice(0, COMMANDS_SHOWN);
  const rest = commands_total - shown.reduce((sum, one) => sum + one.targets.length, 0);
  return (
    <div class="stack-tight">
      <p>
        <b>
          {targets.length.toLocaleString("en")} {targets.length === 1 ? "target" : "targets"}
        </b>
        {waves.length > 1 &&
          ` in ${waves.length} waves: ${waves.map((one) => one.length).join(", ")}`}
        {estimate.seconds !== null &&
          ` · about ${durationWords(estimate.seconds * 1_000)}, from ${estimate.executions} before`}
      </p>
      {changes.since !== null && (changes.added.length > 0 || changes.removed.length > 0) && (
        <p class="dim">
          Since execution {changes.since}: <Names sign="+" names={changes.added} />{" "}
          <Names sign="−" names={changes.removed} />
        </p>
      )}
      <Findings findings={preview.findings} />
      {verdict === "needs_approval" && <p class="tone hold">It starts once it is approved.</p>}
      {verdict === "block" && (
        <p class="tone bad">
          The safety check blocks it. Change it
          {mayDo("safety:override") && ", or override the check with a reason"}.
        </p>
      )}
      <div class="commands" tabIndex={0} role="region" aria-label="Commands">
        <ul>
          {shown.map((one) => (
            <li key={`${one.action} ${one.command}`}>
              <code>
                <Text of={one.command} />
              </code>{" "}
              <span class="dim">
                on <Text of={someOf(one.targets, OF_COMMAND_SHOWN)} />
              </span>
            </li>
          ))}
        </ul>
      </div>
      {rest > 0 && <p class="dim">and {rest.toLocaleString("en")} more commands</p>}
    </div>
  );
}

/** `web-1, web-2 and 18 more`. */
function someOf(names: readonly string[], most: number): string {
  const shown = names.slice(0, most).join(", ");
  const more = names.length - most;
  return more > 0 ? `${shown} and ${more.toLocaleString("en")} more` : shown;
}

function Names({ sign, names }: { sign: string; names: readonly string[] }) {
  if (names.length === 0) return null;
  return (
    <span>
      {sign}
      {names.length} (<Text of={firstNames(names)} />)
    </span>
  );
}

interface Ready {
  /** What it would do. */
  preview: PreviewAnswer;
  body: Body;
}

interface LaunchButtonProps {
  /** The preview of this body; null: not known yet. */
  preview: PreviewAnswer | null;
  body: Body | null;
  send: Send;
}

/** The button that launches: at once, or after the number was typed if it is large or found risky. */
export function LaunchButton({ preview, body, send }: LaunchButtonProps) {
  // As it was when the number was asked for: that is launched, and nothing else.
  const [asked, setAsked] = useState<Ready | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<RequestError | null>(null);
  const sent = useRef({ request: "", key: "" });
  const blocked = preview?.verdict === "block";
  const some = preview !== null && preview.targets.length > 0;
  const ready = some && body && (!blocked || mayDo("safety:override")) ? { preview, body } : null;
  const launch = async (body: Body) => {
    const request = JSON.stringify(body);
    // The same request with the same key is launched once, however often it is sent.
    if (sent.current.request !== request) sent.current = { request, key: crypto.randomUUID() };
    const launched = await send(body, { idempotencyKey: sent.current.key });
    go(`/executions/${launched.id}`);
  };
  const press = async ({ preview, body }: Ready) => {
    if (blocked || preview.targets.length >= TYPED_FROM || preview.findings.length > 0)
      return setAsked({ preview, body });
    setBusy(true);
    setError(null);
    try {
      await launch(body);
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(failed);
      setBusy(false);
    }
  };
  return (
    <>
      {error && <Trouble error={error} />}
      <button
        type="button"
        class="button primary launch-button"
        disabled={ready === null || busy}
        aria-busy={busy}
        onClick={() => ready && press(ready)}
      >
        {preview === null ? "Launch" : blocked && ready ? "Override and launch …" : verbOf(preview)}
      </button>
      {asked && (
        <Confirm
          title={`${verbOf(asked.preview)}?`}
          verb={verbOf(asked.preview)}
          count={asked.preview.targets.length}
          careful={asked.preview.findings.length > 0}
          {...(overrides(asked) && {
            reason: "required" as const,
            given: String(asked.body["reason"] ?? ""),
            danger: true,
          })}
          onConfirm={(reason) =>
            launch(overrides(asked) ? { ...asked.body, reason, override_safety: true } : asked.body)
          }
          onClose={() => setAsked(null)}
        >
          <Findings findings={asked.preview.findings} />
          <p>
            <Text of={firstNames(asked.preview.targets.map((one) => one.name))} />
          </p>
        </Confirm>
      )}
    </>
  );
}

const overrides = ({ preview }: Ready): boolean => preview.verdict === "block";

const verbOf = ({ targets }: PreviewAnswer): string =>
  `Launch on ${targets.length.toLocaleString("en")} ${targets.length === 1 ? "target" : "targets"}`;
