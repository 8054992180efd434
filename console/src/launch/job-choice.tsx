/** Jobs to launch: each has a form of its own. */
import { ask } from "../api/ask.ts";
import { labelsOf } from "../jobs/labels.ts";
import { Empty } from "../parts/empty.tsx";
import { Field } from "../parts/form.tsx";
import { useSettled } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { Link, query, setQuery } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
import "../style/launch.css";

const SHOWN = 50;

export function JobChoice() {
  const typed = query.value.get("q") ?? "";
  const q = useSettled(typed, typed);
  const jobs = useResource(
    (signal) =>
      ask("GET /jobs", {
        query: { state: ["active"], limit: SHOWN, sort: "name", ...(q && { q }) },
        signal,
      }),
    [q],
  );
  return (
    <div class="stack">
      <Field label="Find a job" hint="Part of its name or description">
        <input
          class="input"
          data-filter
          autoComplete="off"
          value={typed}
          onInput={(event) => setQuery({ q: event.currentTarget.value })}
        />
      </Field>
      <Loaded resource={jobs} what="jobs">
        {({ items, next }) => {
          const mine = items.filter((job) => mayDo("jobs:execute", labelsOf(job)));
          if (mine.length === 0)
            return (
              <Empty
                why={
                  q
                    ? "No job has this text in its name or description."
                    : "There are no jobs yet that you may launch."
                }
              />
            );
          return (
            <ul class="entries" aria-label="Jobs to launch">
              {mine.map((job) => (
                <li key={job.id}>
                  <Link to={`/jobs/${job.id}/launch`}>
                    <b>
                      <Text of={job.name} />
                    </b>
                  </Link>
                  <span class="dim cut">
                    <Text of={job.description} />
                  </span>
                </li>
              ))}
              {next && <li class="dim">There are more jobs: type part of a name.</li>}
            </ul>
          );
        }}
      </Loaded>
    </div>
  );
}
