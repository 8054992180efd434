/** Run the job again, as it is now: on its own targets, or on selected ones. */
import { useMemo } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Execution, Preview } from "../api/types.ts";
import { Confirm } from "../parts/dialog.tsx";
import { firstNames } from "../parts/natural-order.ts";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { Findings } from "./findings.tsx";

/** What the API shows in place of the value of a secret parameter. */
const MASKED = "***";

interface RunAgainProps {
  execution: Execution;
  /** The ids of targets; null: those of the job. */
  targets: string[] | null;
  onClose: () => void;
}

export function RunAgainDialog({ execution, targets, onClose }: RunAgainProps) {
  const job = String(execution.job_id);
  const key = useMemo(() => crypto.randomUUID(), []);
  const secrets = Object.values(execution.parameters).some((value) => value === MASKED);
  const body = {
    parameters: execution.parameters,
    ...(targets && { targets: { ids: targets } }),
  };
  const preview = useResource(
    async (signal) =>
      (await ask("POST /jobs/{id}/execute", {
        path: { id: job },
        body: { ...body, dry_run: true },
        signal,
      })) as unknown as Preview,
    [],
  );
  const found = preview.data.value;
  const count = found?.targets.length ?? 0;
  const launch = async (reason: string) => {
    const launched = await ask("POST /jobs/{id}/execute", {
      path: { id: job },
      body: { ...body, ...(reason && { reason }) },
      idempotencyKey: key,
    });
    go(`/executions/${launched.id}`);
  };
  return (
    <Confirm
      title={`Run ${execution.job_name} again?`}
      verb={`Run on ${count.toLocaleString("en")}`}
      count={count}
      careful={(found?.findings.length ?? 0) > 0}
      ready={found !== null && !secrets}
      reason="optional"
      onConfirm={launch}
      onClose={onClose}
    >
      {secrets ? (
        <p>
          It has secret parameters, whose values are never shown.{" "}
          <Link to={`/jobs/${job}/launch`}>Enter them on the job's page</Link>.
        </p>
      ) : (
        <Loaded resource={preview} what="what would run">
          {(data) => (
            <div class="stack-tight">
              <p>
                <b>{data.targets.length.toLocaleString("en")} targets</b>:{" "}
                <Text of={firstNames(data.targets.map((target) => target.name))} />
              </p>
              <p class="dim">The job as it is now, with the parameters of this execution.</p>
              <Findings findings={data.findings} />
            </div>
          )}
        </Loaded>
      )}
    </Confirm>
  );
}
