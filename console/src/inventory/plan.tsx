/** What an import would do to each target, and what of the text is not taken over. */
import type { Import, ImportedTarget } from "../api/types.ts";
import { countWords } from "../parts/counts.ts";
import { Empty } from "../parts/empty.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import type { Skipped } from "./found.ts";

const LEFT_SHOWN = 50;
const OUTCOMES = ["created", "updated", "unchanged", "skipped", "refused"] as const;

export interface Planned {
  /** Null: there is nothing to send. */
  answer: Import | null;
  left: readonly Skipped[];
  /** New targets that would have no login. */
  bare: number;
}

export function Plan({ answer, left, bare }: Planned) {
  const hosts = left.filter((one) => one.target);
  const parts = left.filter((one) => !one.target);
  const refused = (answer?.items ?? [])
    .filter((one) => one.outcome === "refused")
    .map((one) => ({ what: one.name, reason: one.error?.message ?? "", target: true }));
  if (answer === null && left.length === 0)
    return (
      <Empty why="Choose a file, or paste its text. What the import would change is shown here before you start it." />
    );
  const counts = OUTCOMES.filter((outcome) => answer && answer[outcome] > 0);
  const worst = [...(answer?.items ?? [])].sort((a, b) => rank(a) - rank(b));
  return (
    <>
      {answer && (
        <p class="body-line">
          <b>{counts.map((name) => `${answer[name].toLocaleString("en")} ${name}`).join(", ")}</b>
        </p>
      )}
      {bare > 0 && (
        <p class="body-line tone warn">
          {countWords(bare, "target")} would have no login: choose a credential.
        </p>
      )}
      <Left
        heading={`${countWords(refused.length, "target")} refused; the others are imported`}
        left={refused}
      />
      <Left heading={`${countWords(hosts.length, "host")} left out`} left={hosts} />
      <Left heading="Not taken over" left={parts} />
      {worst.length > 0 && (
        <Table
          label="Targets of the import"
          columns={COLUMNS}
          rows={worst}
          keyOf={(one) => String(one.position)}
          width={480}
        />
      )}
    </>
  );
}

function Left({ heading, left }: { heading: string; left: readonly Skipped[] }) {
  if (left.length === 0) return null;
  return (
    <section class="body-line">
      <h3>{heading}</h3>
      <ul class="plain-list">
        {left.slice(0, LEFT_SHOWN).map((one) => (
          <li key={one.what + one.reason}>
            <b>
              <Text of={one.what} />
            </b>
            : <Text of={one.reason} />
          </li>
        ))}
        {left.length > LEFT_SHOWN && <li class="dim">and {left.length - LEFT_SHOWN} more</li>}
      </ul>
    </section>
  );
}

const rank = (one: ImportedTarget) =>
  ["refused", "updated", "created", "skipped", "unchanged"].indexOf(one.outcome);

const STATES: Record<string, string> = { created: "ok", updated: "ok", unchanged: "skipped" };

const COLUMNS: readonly Column<ImportedTarget>[] = [
  {
    name: "name",
    label: "Target",
    width: "minmax(100px, 1fr)",
    cell: (one) => <Text of={one.name} />,
  },
  {
    name: "outcome",
    label: "Outcome",
    width: "104px",
    cell: (one) => <Status state={STATES[one.outcome] ?? one.outcome} label={one.outcome} />,
  },
  {
    name: "why",
    label: "What",
    width: "minmax(160px, 3fr)",
    cell: (one) => <Text of={one.error?.message ?? changesOf(one)} />,
  },
];

function changesOf(one: ImportedTarget): string {
  const changes = Object.entries(one.changes).map(
    ([name, change]) => `${name}: ${shown(change["from"])} → ${shown(change["to"])}`,
  );
  return changes.join(", ");
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return "nothing";
  return typeof value === "string" ? value : JSON.stringify(value);
}
