/** A button that does something with all runs of a group, which are asked for page by page. */
import { useSignal } from "@preact/signals";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import type { ResultGroup } from "../api/types.ts";
import { Trouble } from "../parts/trouble.tsx";

export interface Compared {
  normalise: boolean;
  running: boolean;
}

interface GroupRunsProps {
  id: string;
  group: ResultGroup;
  compared: Compared;
  label: string;
  onRuns: (runs: readonly GroupRun[]) => void;
}

/** A run of a group, as far as it is needed. */
export interface GroupRun {
  id: number;
  target: { name: string };
}

const PAGE = 200;

export function GroupRuns({ id, group, compared, label, onRuns }: GroupRunsProps) {
  const read = useSignal<number | null>(null);
  const error = useSignal<RequestError | null>(null);
  const choose = async () => {
    error.value = null;
    try {
      onRuns(await runsOf(id, group.digest, compared, (count) => (read.value = count)));
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      error.value = failed;
    } finally {
      read.value = null;
    }
  };
  const count = group.count.toLocaleString("en");
  return (
    <>
      <button
        type="button"
        class="button small"
        disabled={read.value !== null}
        onClick={() => void choose()}
      >
        {read.value === null ? label : `${read.value} of ${count} …`}
      </button>
      {error.value && <Trouble error={error.value} />}
    </>
  );
}

async function runsOf(
  id: string,
  digest: string,
  compared: Compared,
  onCount: (count: number) => void,
): Promise<GroupRun[]> {
  const runs: GroupRun[] = [];
  let cursor: string | null = null;
  do {
    onCount(runs.length);
    const query = { ...compared, limit: PAGE, ...(cursor ? { cursor } : {}) };
    const page: { items: readonly GroupRun[]; next: string | null } = await ask(
      "GET /executions/{id}/groups/{digest}/targets",
      { path: { id, digest }, query },
    );
    runs.push(...page.items);
    cursor = page.next;
  } while (cursor !== null);
  return runs;
}
