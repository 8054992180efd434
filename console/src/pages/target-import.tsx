/** Import of targets: a file or a text, what it would change, and then that. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Import, ImportedTarget } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { Field, Form, Select, TextField } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { useSettled } from "../parts/picker.tsx";
import { Status } from "../parts/status.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go } from "../router.tsx";
import { useResource } from "../state/resource.ts";
import { askIf, mayDoEverywhere } from "../state/rights.ts";
import { labelsOf, listOf } from "../targets/draft.ts";
import { readInventory } from "../targets/inventory.ts";
import "../style/forms.css";
import "../style/launch.css";

const IMPORTED_MAX = 1_000;
const FILE_BYTES_MAX = 1 << 20;
const EXAMPLE = `[web]
web[1:3].example.com

[db]
db-1 ansible_host=10.0.0.5`;

interface Options {
  existing: "update" | "skip";
  credential: string;
  groups: string;
  labels: string;
}

interface Planned {
  /** Null: there is nothing to send. */
  answer: Import | null;
  left: readonly string[];
  /** Why the text cannot be read. */
  fault: string | null;
}

export default function TargetImport() {
  const [text, setText] = useState("");
  const [options, setOptions] = useState<Options>({
    existing: "update",
    credential: "",
    groups: "",
    labels: "",
  });
  const plan = usePlan(text, options);
  const planned = plan.data.value;
  const count = planned?.answer ? planned.answer.created + planned.answer.updated : 0;
  const save = async () => {
    const { targets } = await readInventory(text);
    const done = await ask("POST /targets/import", { body: bodyOf(targets, options, false) });
    toast(`${done.created} targets are added, ${done.updated} changed`);
    go("/targets");
  };
  return (
    <div class="stack">
      <h1>Import targets</h1>
      <Form
        verb={count === 1 ? "Import 1 target" : `Import ${count.toLocaleString("en")} targets`}
        disabled={count === 0 || plan.error.value !== null}
        onSubmit={save}
        onCancel={() => go("/targets")}
      >
        {() => (
          <div class="launch">
            <Source
              text={text}
              onText={setText}
              fault={planned?.fault ?? null}
              options={options}
              onOptions={(some) => setOptions({ ...options, ...some })}
            />
            <Panel title="What it would do" flush>
              <div aria-live="polite">
                <Loaded resource={plan} what="what it would do">
                  {(found) => <Plan found={found} />}
                </Loaded>
              </div>
            </Panel>
          </div>
        )}
      </Form>
    </div>
  );
}

function bodyOf(targets: readonly object[], options: Options, dry_run: boolean) {
  const groups = listOf(options.groups);
  const labels = labelsOf(options.labels);
  const shared = options.credential ? { credential: options.credential } : {};
  return {
    targets: targets.map((one) => {
      const own = one as { groups?: unknown[]; labels?: object };
      return {
        ...shared,
        ...one,
        ...(groups.length && { groups: [...(own.groups ?? []), ...groups] }),
        ...(Object.keys(labels).length && { labels: { ...labels, ...own.labels } }),
      };
    }),
    existing: options.existing,
    dry_run,
  };
}

/** Ask what an import would do when typing has paused; nothing is changed. */
function usePlan(text: string, options: Options) {
  const key = JSON.stringify([text, options]);
  const settled = useSettled(key, key);
  return useResource(
    async (signal): Promise<Planned> => {
      const [typed, chosen] = JSON.parse(settled) as [string, Options];
      if (!typed.trim()) return { answer: null, left: [], fault: null };
      let found: Awaited<ReturnType<typeof readInventory>>;
      try {
        found = await readInventory(typed);
      } catch (failed) {
        return { answer: null, left: [], fault: (failed as Error).message };
      }
      const { targets, left } = found;
      if (targets.length === 0) return { answer: null, left, fault: "It has no target." };
      if (targets.length > IMPORTED_MAX)
        return {
          answer: null,
          left,
          fault:
            `It has ${targets.length.toLocaleString("en")} targets, and this page takes ` +
            "1,000 at a time: opsjobs targets import FILE takes any number.",
        };
      const body = bodyOf(targets, chosen, true);
      return { answer: await ask("POST /targets/import", { body, signal }), left, fault: null };
    },
    [settled],
  );
}

interface SourceProps {
  text: string;
  onText: (text: string) => void;
  fault: string | null;
  options: Options;
  onOptions: (some: Partial<Options>) => void;
}

function Source({ text, onText, fault, options, onOptions }: SourceProps) {
  const credentials = useResource(
    (signal) =>
      askIf(mayDoEverywhere("credentials:use"), () =>
        ask("GET /credentials", { query: { limit: 200 }, signal }),
      ),
    [],
  );
  const names = (credentials.data.value?.items ?? [])
    .filter((one) => one.type !== "secret")
    .map((one) => one.name);
  return (
    <div class="form">
      <Field label="Inventory file" hint="At most 1 MiB; it is shown below before it is used.">
        <input
          class="input"
          type="file"
          onChange={async (event) => {
            const file = event.currentTarget.files?.[0];
            if (!file) return;
            if (file.size > FILE_BYTES_MAX) toast(`${file.name} is larger than 1 MiB`, "bad");
            else onText(await file.text());
          }}
        />
      </Field>
      <Field
        label="Or its text"
        hint="An Ansible inventory (INI or YAML), lines such as web-1 10.0.0.5 env=prod, or targets as YAML or JSON"
        fault={fault}
      >
        <textarea
          class="input"
          rows={14}
          spellcheck={false}
          placeholder={EXAMPLE}
          value={text}
          onInput={(event) => onText(event.currentTarget.value)}
        />
      </Field>
      <Field label="Targets that are there already">
        <Select
          of={{ update: "are changed", skip: "stay as they are" }}
          value={options.existing}
          onChange={(existing) => onOptions({ existing })}
        />
      </Field>
      {names.length > 0 && (
        <Field label="All log in with" hint="Unless the text names another credential">
          <Select
            of={{ "": "nothing yet", ...Object.fromEntries(names.map((name) => [name, name])) }}
            value={options.credential}
            onChange={(credential) => onOptions({ credential })}
          />
        </Field>
      )}
      <TextField
        label="All are in the groups"
        value={options.groups}
        onChange={(groups) => onOptions({ groups })}
      />
      <TextField
        label="All have the labels"
        hint="Such as env=prod, site=fra"
        value={options.labels}
        onChange={(labels) => onOptions({ labels })}
      />
    </div>
  );
}

function Plan({ found }: { found: Planned }) {
  const { answer, left } = found;
  if (answer === null)
    return <Empty why="Choose a file, or paste its text. Nothing is changed until you say so." />;
  const parts = (["created", "updated", "unchanged", "skipped", "refused"] as const)
    .filter((outcome) => answer[outcome] > 0)
    .map((outcome) => `${answer[outcome].toLocaleString("en")} ${outcome}`);
  const worst = [...answer.items].sort((a, b) => rank(a) - rank(b));
  return (
    <>
      <p class="body-line">
        <b>{parts.join(", ")}</b>
      </p>
      {answer.refused > 0 && (
        <p class="body-line tone warn">
          Those that are refused are left out; the others are imported.
        </p>
      )}
      {left.length > 0 && (
        <p class="body-line dim">
          Not taken over: <Text of={left.join(", ")} />. The command opsjobs targets import takes
          more of Ansible, such as logins and jump hosts.
        </p>
      )}
      <Table
        label="Targets of the import"
        columns={COLUMNS}
        rows={worst}
        keyOf={(one) => String(one.position)}
        width={480}
      />
    </>
  );
}

const rank = (one: ImportedTarget) =>
  ["refused", "updated", "created", "skipped", "unchanged"].indexOf(one.outcome);

const STATES: Record<string, string> = { created: "ok", updated: "ok", unchanged: "skipped" };

const COLUMNS: readonly Column<ImportedTarget>[] = [
  {
    name: "name",
    label: "Target",
    width: "minmax(120px, 1fr)",
    cell: (one) => <Text of={one.name} />,
  },
  {
    name: "outcome",
    label: "Outcome",
    width: "120px",
    cell: (one) => <Status state={STATES[one.outcome] ?? one.outcome} label={one.outcome} />,
  },
  {
    name: "why",
    label: "What",
    width: "minmax(160px, 2fr)",
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
