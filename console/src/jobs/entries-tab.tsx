/** What launches a job by itself, schedules or triggers, and a new one. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { JobDetail } from "../api/types.ts";
import { Act } from "../parts/act.tsx";
import { Empty } from "../parts/empty.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go, Link } from "../router.tsx";
import { useResource } from "../state/resource.ts";

const REFRESH_SECONDS = 15;
/** The query of the list. */
export const SHOWN = { limit: 200 } as const;

interface Entry {
  id: string | number;
  name: string;
}

interface EntriesTabProps<One extends Entry> {
  job: JobDetail;
  what: "schedules" | "triggers";
  /** The action of the job that makes one, and the words of its button. */
  action: string;
  verb: string;
  load: (signal: AbortSignal) => Promise<{ items: readonly One[] }>;
  /** What stands behind the name. */
  facts: (one: One) => ComponentChildren;
  /** Why there may be none. */
  empty: string;
  form: (onDone: (made: { id: string | number }) => void, onClose: () => void) => ComponentChildren;
}

export function EntriesTab<One extends Entry>(props: EntriesTabProps<One>) {
  const { job, what, action, verb, load, facts, empty, form } = props;
  const [adding, setAdding] = useState(false);
  const entries = useResource(load, [job.id], REFRESH_SECONDS);
  return (
    <div class="stack">
      <p class="row">
        <Act of={job} action={action} onAct={() => setAdding(true)}>
          {verb}
        </Act>
      </p>
      <Loaded resource={entries} what={what}>
        {({ items }) =>
          items.length ? (
            <ul class="entries">
              {items.map((one) => (
                <li key={one.id}>
                  <Link to={`/${what}/${one.id}`}>
                    <b>
                      <Text of={one.name} />
                    </b>
                  </Link>
                  {facts(one)}
                </li>
              ))}
            </ul>
          ) : (
            <Empty why={empty} />
          )
        }
      </Loaded>
      {adding &&
        form(
          (made) => go(`/${what}/${made.id}`),
          () => setAdding(false),
        )}
    </div>
  );
}
