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
import { Form } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { useSettled } from "../parts/picker.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { go } from "../router.tsx";
import { useResource } from "../state/resource.ts";
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
  const read = useRead(source);
  const { found, fault } = read.data.value ?? { ...NOTHING, fault: null };
  const plan = usePlan(read.data.value, options);
  const planned = plan.data.value;
  const count = planned?.answer ? planned.answer.created + planned.answer.updated : 0;
  const save = async () => {
    const done = await ask("POST /targets/import", { body: importOf(found, options, false) });
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

/** Read the text when typing has paused. */
function useRead(source: { text: string; file: string }) {
  const settled = useSettled(source, source.file + source.text);
  return useResource(async (): Promise<Read> => {
    if (!settled.text.trim()) return { ...NOTHING, fault: null };
    try {
      const read = await readInventory(settled.text, settled.file);
      return { ...read, fault: faultOf(read.found) };
    } catch (failed) {
      return { ...NOTHING, fault: sentence((failed as Error).message) };
    }
  }, [settled]);
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

/** Ask what an import would do when typing has paused; nothing is changed. */
function usePlan(read: Read | null, options: ImportOptions) {
  const settled = useSettled(options, JSON.stringify(options));
  return useResource(
    async (signal): Promise<Planned> => {
      if (read === null) return { answer: null, left: [], bare: 0 };
      const { found, fault } = read;
      const left = [...read.left, ...keysLeft(found, settled)];
      if (fault !== null || found.length === 0) return { answer: null, left, bare: 0 };
      const body = importOf(found, settled, true);
      const answer = await ask("POST /targets/import", { body, signal });
      return { answer, left, bare: countBare(found, settled) };
    },
    [read, settled],
  );
}
