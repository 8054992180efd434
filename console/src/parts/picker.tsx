/** The targets of a launch: labels, groups, names and exceptions, and what they find together. */
import { useEffect, useId, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { ResolvedPage } from "../api/types.ts";
import { completedLists, type Picked, selectionOf } from "../launch/selection.ts";
import { type Resource, useResource } from "../state/resource.ts";
import { askIf, mayDo, mayDoEverywhere } from "../state/rights.ts";
import { Field } from "./form.tsx";
import { Text } from "./text.tsx";
import { Loaded } from "./trouble.tsx";

export const TYPING_MS = 400;
const OFFERED = 50;
const NAMES_SHOWN = 12;
const LABELS_SHOWN = 4;

/** Return the value as it was when typing paused. */
export function useSettled<T>(value: T, key: string): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), TYPING_MS);
    return () => clearTimeout(timer);
  }, [key]);
  return settled;
}

/** Return the labels, as KEY=VALUE, and the groups that targets have, as far as the person may see. */
export function useLabelsAndGroups(): { conditions: string[]; groupNames: string[] } {
  const labels = useResource(
    (signal) => askIf(mayDo("targets:read"), () => ask("GET /targets/labels", { signal })),
    [],
  );
  const groups = useResource(
    (signal) =>
      askIf(mayDoEverywhere("targets:read"), () =>
        ask("GET /target-groups", { query: { limit: 200 }, signal }),
      ),
    [],
  );
  return {
    conditions: (labels.data.value?.labels ?? []).flatMap((label) =>
      label.values.map((value) => `${label.key}=${value.value}`),
    ),
    groupNames: (groups.data.value?.items ?? []).map((group) => group.name),
  };
}

interface PickerProps {
  picked: Picked;
  onChange: (change: Partial<Picked>) => void;
  /** A job has targets of its own: an empty selection means all of them. */
  ofJob?: boolean;
}

export function Picker({ picked, onChange, ofJob = false }: PickerProps) {
  const { conditions, groupNames } = useLabelsAndGroups();
  return (
    <fieldset class="form picker">
      <legend>{ofJob ? "Some of the job's targets (all, if empty)" : "Targets"}</legend>
      <ListField
        label="Labels"
        hint="All of them must match, such as env=prod,role!=db"
        text={picked.selector}
        options={conditions}
        onInput={(selector) => onChange({ selector })}
      />
      <ListField
        label="Groups"
        hint="Separated by commas"
        text={picked.groups}
        options={groupNames}
        onInput={(list) => onChange({ groups: list })}
      />
      <TargetField
        label="Targets"
        hint="Names or ids, separated by commas"
        text={picked.names}
        onInput={(names) => onChange({ names })}
      />
      <TargetField
        label="Except"
        hint="These are left out"
        text={picked.except}
        onInput={(except) => onChange({ except })}
      />
    </fieldset>
  );
}

interface ListFieldProps {
  label: string;
  hint: string;
  text: string;
  options: readonly string[];
  fault?: string | null;
  required?: boolean;
  onInput: (text: string) => void;
}

/** Several words with commas between them, each completed from the options. */
export function ListField(props: ListFieldProps) {
  const { label, hint, text, options, fault, required = false, onInput } = props;
  const id = useId();
  return (
    <>
      <Field label={label} hint={hint} fault={fault}>
        <input
          class="input mono"
          list={id}
          value={text}
          required={required}
          autoComplete="off"
          spellcheck={false}
          onInput={(event) => onInput(event.currentTarget.value)}
        />
      </Field>
      <datalist id={id}>
        {completedLists(text, options)
          .slice(0, OFFERED)
          .map((option) => (
            <option key={option} value={option} />
          ))}
      </datalist>
    </>
  );
}

/** Names of targets, looked up while typing. */
export function TargetField(props: Omit<ListFieldProps, "options">) {
  const last = props.text.split(",").at(-1)!.trim();
  const q = useSettled(last, last);
  const found = useResource(
    (signal) =>
      askIf(q !== "" && mayDo("targets:read"), () =>
        ask("GET /targets", { query: { q, limit: 20 }, signal }),
      ),
    [q],
  );
  const names = (found.data.value?.items ?? []).map((target) => target.name);
  return <ListField {...props} options={names} />;
}

/** Return what a selection finds now for commands without a job; null while nothing is selected. */
export function useResolved(picked: Picked): Resource<ResolvedPage | null> {
  const key = JSON.stringify(selectionOf(picked));
  const settled = useSettled(key, key);
  return useResource(
    async (signal) => {
      const targets = JSON.parse(settled);
      if (targets === null) return null;
      const query = { limit: NAMES_SHOWN };
      return ask("POST /targets/resolve", { query, body: { targets, ad_hoc: true }, signal });
    },
    [settled],
  );
}

interface ResolvedProps {
  resource: Resource<ResolvedPage | null>;
  picked: Picked;
}

/** How many targets there are, their names and labels, and why a launch would be refused. */
export function Resolved({ resource, picked }: ResolvedProps) {
  if (selectionOf(picked) === null) return <p class="dim">Nothing is selected yet.</p>;
  return (
    <Loaded resource={resource} what="targets">
      {(found) =>
        found && (
          <div class="stack-tight">
            <p>
              <b>
                {found.count.toLocaleString("en")} {found.count === 1 ? "target" : "targets"}
              </b>
              {found.excluded > 0 && ` · ${found.excluded} left out`}
              <span class="dim">
                <Text of={labelWords(found)} />
              </span>
            </p>
            <p>
              <Text of={found.items.map((target) => target.name).join(", ")} />
              {found.count > found.items.length && ", …"}
            </p>
            {found.refusals.map((refusal) => (
              <p key={refusal.pointer + refusal.detail} class="tone warn">
                <Text of={refusal.detail} />
              </p>
            ))}
          </div>
        )
      }
    </Loaded>
  );
}

/** Return the most frequent value of each label: ` · env=prod 300 · role=web 12`. */
function labelWords(found: ResolvedPage): string {
  const shown = found.labels.slice(0, LABELS_SHOWN).map((label) => {
    const most = label.values[0]!;
    return ` · ${label.key}=${most.value} ${most.targets.toLocaleString("en")}`;
  });
  return shown.join("");
}
