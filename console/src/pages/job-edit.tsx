/** A new job, or a new version of one: written as YAML, checked while typing. */
import { ask } from "../api/ask.ts";
import { JobEditor, type JobSource } from "../jobs/editor.tsx";
import { writtenYaml } from "../jobs/definition.ts";
import { Empty } from "../parts/empty.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useTitle } from "../parts/shell.tsx";
import { Text } from "../parts/text.tsx";
import { query } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";

const SAMPLE = `name: disk
description: ""
targets:
  selector: env=prod
actions:
  - command: df -h /
`;

/** `id`: the job to change; without it a new one, as a copy of `?from=` if that is given. */
export default function JobEdit({ id }: { id?: string }) {
  const from = query.value.get("from");
  const source = useResource((signal) => load(id ?? null, from, signal), [id, from]);
  const title = id ? `Edit ${source.data.value?.job?.name ?? "the job"}` : "New job";
  useTitle(title);
  return (
    <div class="stack">
      <h1>
        <Text of={title} />
      </h1>
      <Loaded resource={source} what="the definition">
        {(found) => (found.refused ? <Empty why={found.refused} /> : <JobEditor source={found} />)}
      </Loaded>
    </div>
  );
}

async function load(
  id: string | null,
  from: string | null,
  signal: AbortSignal,
): Promise<JobSource & { refused?: string }> {
  const ref = id ?? from;
  if (id === null && !mayDo("jobs:create"))
    return { job: null, text: "", refused: "You may not make jobs. Ask an administrator." };
  if (ref === null) return { job: null, text: SAMPLE };
  const job = await ask("GET /jobs/{id}", { path: { id: ref }, signal });
  if (id !== null && !job.can.includes("update")) {
    const refused = job.cannot["update"]?.detail ?? "You may not change this job.";
    return { job, text: "", refused };
  }
  const text = await writtenYaml(job, signal);
  if (id !== null) return { job, text };
  return {
    job: null,
    text: text.replace(/^name: .*$/m, `name: ${JSON.stringify(`${job.name} (copy)`)}`),
  };
}
