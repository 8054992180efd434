/** The keys of labels that targets have, to filter and group by. */
import { ask } from "../api/ask.ts";
import { mayDo } from "../state/rights.ts";
import { useResource } from "../state/resource.ts";

const NONE: readonly string[] = [];

/** Return the keys; none while they load, or if the person may not see targets. */
export function useLabelKeys(): readonly string[] {
  const may = mayDo("targets:read", null);
  const found = useResource(
    async (signal) =>
      may ? (await ask("GET /targets/labels", { signal })).labels.map(({ key }) => key) : NONE,
    [may],
  );
  return found.data.value ?? NONE;
}
