/** A job to choose: the first ones by name, and any other by a part of its name. */
import type { ComponentChildren } from "preact";
import { ask } from "../api/ask.ts";
import type { ListedJob } from "../api/types.ts";
import { countWords } from "../parts/counts.ts";
import { Empty } from "../parts/empty.tsx";
import { Field } from "../parts/form.tsx";
import { useSettled } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useResource } from "../state/resource.ts";
import { mayDo } from "../state/rights.ts";
import { labelsOf } from "./labels.ts";

interface JobChoiceProps {
  /** Of the field. */
  label: string;
  /** Of the list, for screen readers. */
  list: string;
  /** How many are shown. */
  most: number;
  /** What the person must hold for a job. */
  permission: string;
  typed: string;
  onType: (text: string) => void;
  /** Shown if there is no job to choose. */
  none: ComponentChildren;
  /** The name of a job: what chooses it. */
  children: (job: ListedJob) => ComponentChildren;
}

export function JobChoice(props: JobChoiceProps) {
  const { label, list, most, permission, typed, onType, none, children } = props;
  const q = useSettled(typed, typed).trim();
  const jobs = useResource(
    (signal) =>
      ask("GET /jobs", {
        query: { state: ["active"], page: 1, size: most, sort: "name", ...(q && { q }) },
        signal,
      }),
    [q],
  );
  return (
    <>
      <Field label={label} hint="Part of its name or description">
        <input
          class="input"
          data-filter
          data-first
          autoComplete="off"
          value={typed}
          onInput={(event) => onType(event.currentTarget.value)}
        />
      </Field>
      <Loaded resource={jobs} what="jobs">
        {({ items, total = items.length }) => {
          const mine = items.filter((job) => mayDo(permission, labelsOf(job)));
          const more = total - items.length;
          if (mine.length === 0 && more === 0)
            return q ? <Empty why="No job has this text in its name or description." /> : none;
          return (
            <ul class="entries" aria-label={list}>
              {mine.map((job) => (
                <li key={job.id}>
                  {children(job)}
                  <span class="dim cut">
                    <Text of={job.description} />
                  </span>
                </li>
              ))}
              {more > 0 && (
                <li class="dim">
                  {countWords(more, "more job", "more jobs")}: type part of a name.
                </li>
              )}
            </ul>
          );
        }}
      </Loaded>
    </>
  );
}
