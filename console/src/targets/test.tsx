/** The test of a target: a new connection, step by step. */
import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import type { ShownTarget, TargetTest } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Icon } from "../parts/icon.tsx";
import { Text } from "../parts/text.tsx";
import { Trouble } from "../parts/trouble.tsx";
import { Link } from "../router.tsx";

export function testTitle({ ok, steps }: TargetTest): string {
  if (!ok) return "The test failed";
  const without = steps.filter((step) => !step.ok).map((step) => step.name);
  return `The test succeeded${without.length > 0 ? `, without ${without.join(" and ")}` : ""}`;
}

/** What is not there if a step fails that a login does not need. */
const OPTIONAL: Readonly<Record<string, string>> = {
  sudo: "Only commands as another user need it.",
  sftp: "Only file transfers need it.",
};

/** A step that failed, and the test succeeded all the same: it is not needed for everything. */
function toneOf(step: TargetTest["steps"][number], test: TargetTest): "ok" | "warn" | "bad" {
  if (step.ok) return "ok";
  return test.ok ? "warn" : "bad";
}

export function TestSteps({ test }: { test: TargetTest }) {
  return (
    <ul class="stack-tight" aria-label="Steps of the test">
      {test.steps.map((step) => (
        <li key={step.name} class="row">
          <span class={`tone ${toneOf(step, test)}`}>
            <Icon name={toneOf(step, test)} />
          </span>
          <b>{step.name}</b>
          <span class="dim">{Math.round(step.ms)} ms</span>
          {step.error && <Text of={step.error} />}
          {!step.ok && test.ok && <span class="dim">{OPTIONAL[step.name]}</span>}
        </li>
      ))}
    </ul>
  );
}

/** Tests a target at once. */
export function TestDialog({ target, onClose }: { target: ShownTarget; onClose: () => void }) {
  const [test, setTest] = useState<TargetTest | null>(null);
  const [error, setError] = useState<RequestError | null>(null);
  const run = async () => {
    setTest(null);
    setError(null);
    try {
      setTest(await ask("POST /targets/{id}/test", { path: { id: target.id } }));
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(failed);
    }
  };
  useEffect(() => void run(), []);
  const busy = test === null && error === null;
  return (
    <Dialog title={`Test of ${target.name}`} onClose={onClose}>
      <div class="stack-tight" aria-live="polite">
        {busy && <p role="status">Connecting to {target.host} …</p>}
        {error && <Trouble error={error} />}
        {test && (
          <>
            <p>
              <b>{testTitle(test)}.</b>
            </p>
            <TestSteps test={test} />
          </>
        )}
      </div>
      <div class="actions">
        <Link class="button" to={`/targets/${encodeURIComponent(target.name)}`}>
          Open the target
        </Link>
        <button type="button" class="button" disabled={busy} onClick={() => void run()}>
          Test again
        </button>
        <button type="button" class="button primary" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
