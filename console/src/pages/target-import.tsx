/** Import of targets: a file or a text, what it would change, and then that. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { Options, Source } from "../inventory/fields.tsx";
import type { FoundTarget, Inventory } from "../inventory/found.ts";
import {
  countBare,
  type ImportOptions,
  importOf,
  keysLeft,
  NEW_OPTIONS,
} from "../inventory/options.ts";
import { Plan, type Planned } from "../inventory/plan.tsx";
import { readInventory } from "../inventory/read.ts";
import { countWords } from "../parts/counts.ts";
import { Form } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { useSettled } from "../parts/picker.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go } from "../router.tsx";
import { type Resource, useResource } from "../state/resource.ts";
import "../style/forms.css";
import "../style/launch.css";

const IMPORTED_MAX = 1_000;
const NOTHING: Inventory = { found: [], left: [] };

interface Read extends Inventory {
  /** Why the text cannot be read, or not be sent. */
  fault: string | null;
}

export default function TargetImport() {
  const [source, setSource] = useState({ text: "", file: "" });
  const [options, setOptions] = useState<ImportOptions>(NEW_OPTIONS);
  const [read, isRead] = useRead(source);
  const { found, fault } = read.data.value ?? { ...NOTHING, fault: null };
  const [plan, isPlanned] = usePlan(read.data.value, options);
  const planned = plan.data.value;
  const count = planned?.answer ? planned.answer.created + planned.answer.updated : 0;
  const save = async () => {
    const done = await ask("POST /targets/import", { body: importOf(found, options, false) });
    toast(
      `${countWords(done.created, "target")} added, ${done.updated} changed.` +
        (done.created ? " Next: compare the host keys on their pages." : ""),
    );
    go("/targets");
  };
  return (
    <div class="stack">
      <h1>Import targets</h1>
      <Form
        verb={count === 1 ? "Import 1 target" : `Import ${count.toLocaleString("en")} targets`}
        disabled={!isRead || !isPlanned || count === 0 || plan.error.value !== null}
        onSubmit={save}
        onCancel={() => go("/targets")}
      >
        {() => (
          <div class="launch">
            <div class="form">
              <Source
                text={source.text}
                onText={(text, file) => setSource({ text, file })}
                fault={fault}
              />
              <Options
                found={found}
                options={options}
                onOptions={(some) => setOptions({ ...options, ...some })}
              />
            </div>
            <Panel title="What it would do" flush>
              <div aria-live="polite">
                <Loaded resource={plan} what="what it would do">
                  {(would) => <Plan {...would} />}
                </Loaded>
              </div>
            </Panel>
          </div>
        )}
      </Form>
    </div>
  );
}

/** Read the text when typing has paused; the flag says that it is still the same. */
function useRead(source: { text: string; file: string }): [Resource<Read>, boolean] {
  const settled = useSettled(source, `${source.file}\n${source.text}`);
  const read = useResource(async (): Promise<Read> => {
    if (!settled.text.trim()) return { ...NOTHING, fault: null };
    try {
      const read = await readInventory(settled.text, settled.file);
      return { ...read, fault: faultOf(read.found) };
    } catch (failed) {
      return { ...NOTHING, fault: sentence((failed as Error).message) };
    }
  }, [settled]);
  return [read, settled.text === source.text && settled.file === source.file];
}

const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

function faultOf(found: readonly FoundTarget[]): string | null {
  if (found.length === 0) return "It has no target.";
  if (found.length <= IMPORTED_MAX) return null;
  return (
    `It has ${found.length.toLocaleString("en")} targets, and this page takes 1,000 at a time: ` +
    "opsjobs targets import FILE takes any number."
  );
}

/** Ask what an import would do when typing has paused; the flag says that it has these options. */
function usePlan(read: Read | null, options: ImportOptions): [Resource<Planned>, boolean] {
  const key = JSON.stringify(options);
  const settled = useSettled(options, key);
  const plan = useResource(
    async (signal): Promise<Planned> => {
      if (read === null) return { answer: null, left: [], bare: 0 };
      const { found, fault } = read;
      const left = [...read.left, ...keysLeft(found, settled)];
      if (fault !== null || found.length === 0) return { answer: null, left, bare: 0 };
      const body = importOf(found, settled, true);
      const answer = await ask("POST /targets/import", { body, signal });
      return { answer, left, bare: countBare(found, settled, answer.items) };
    },
    [read, settled],
  );
  return [plan, JSON.stringify(settled) === key];
}
