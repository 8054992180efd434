/** Selects the runs of a group, which are asked for page by page. */
import { useSignal } from "@preact/signals";
import { ask } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import type { ResultGroup } from "../api/types.ts";
import { Trouble } from "../parts/trouble.tsx";

export interface Compared {
  normalise: boolean;
  running: boolean;
}

interface SelectGroupProps {
  id: string;
  group: ResultGroup;
  compared: Compared;
  onSelect: (runs: readonly number[]) => void;
}

const PAGE = 200;

export function SelectGroup({ id, group, compared, onSelect }: SelectGroupProps) {
  const read = useSignal<number | null>(null);
  const error = useSignal<RequestError | null>(null);
  const select = async () => {
    error.value = null;
    try {
      onSelect(await runsOf(id, group.digest, compared, (count) => (read.value = count)));
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
        onClick={() => void select()}
      >
        {read.value === null ? `Select ${count}` : `${read.value} of ${count} …`}
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
): Promise<number[]> {
  const runs: number[] = [];
  let cursor: string | null = null;
  do {
    onCount(runs.length);
    const query = { ...compared, limit: PAGE, ...(cursor ? { cursor } : {}) };
    const page: { items: readonly { id: number }[]; next: string | null } = await ask(
      "GET /executions/{id}/groups/{digest}/targets",
      { path: { id, digest }, query },
    );
    runs.push(...page.items.map((run) => run.id));
    cursor = page.next;
  } while (cursor !== null);
  return runs;
}
