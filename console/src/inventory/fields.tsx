/** The text of an import, and what holds for all of its targets. */
import { ask } from "../api/ask.ts";
import { FileField } from "../parts/file-field.tsx";
import { Check, Field, Select, TextField } from "../parts/form.tsx";
import { ListField, useLabelsAndGroups } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { useResource } from "../state/resource.ts";
import { askIf, mayDoEverywhere } from "../state/rights.ts";
import { type FoundTarget, ownOf } from "./found.ts";
import { type ImportOptions, usersOf, variablesOf } from "./options.ts";

const USERS_SHOWN = 10;
const EXAMPLE = `[web]
web[1:3].example.com

[db]
db-1 ansible_host=10.0.0.5

[all:vars]
ansible_user=deploy`;
const POLICIES = {
  "": "as for every new target",
  pinned: "pinned: only keys that were trusted",
  ca: "signed by a trusted CA",
  accept_new: "accept the first one",
  unchecked: "not verified",
} as const;

interface SourceProps {
  text: string;
  /** `file`: the name of the file that it came from. */
  onText: (text: string, file: string) => void;
  fault: string | null;
}

export function Source({ text, onText, fault }: SourceProps) {
  return (
    <>
      <FileField
        label="Inventory file"
        hint="At most 1 MiB; it is shown below before it is used."
        onText={onText}
      />
      <Field
        label="Or its text"
        hint="An Ansible inventory (INI, YAML, JSON), an ssh_config, a CSV table, /etc/hosts, lines such as web-1 10.0.0.5 env=prod, or targets as YAML or JSON"
        fault={fault}
      >
        <textarea
          class="input"
          rows={14}
          spellcheck={false}
          placeholder={EXAMPLE}
          value={text}
          onInput={(event) => onText(event.currentTarget.value, "")}
        />
      </Field>
    </>
  );
}

interface OptionsProps {
  /** What was read of the text. */
  found: readonly FoundTarget[];
  options: ImportOptions;
  onOptions: (some: Partial<ImportOptions>) => void;
}

export function Options({ found, options, onOptions }: OptionsProps) {
  const { groupNames } = useLabelsAndGroups();
  return (
    <>
      <Logins found={found} options={options} onOptions={onOptions} />
      <Field label="Targets that are there already">
        <Select
          of={{ update: "are changed", skip: "stay as they are" }}
          value={options.existing}
          onChange={(existing) => onOptions({ existing })}
        />
      </Field>
      <ListField
        label="All are in the groups"
        hint="Separated by commas"
        text={options.groups}
        options={groupNames}
        onInput={(groups) => onOptions({ groups })}
      />
      <TextField
        label="All have the labels"
        hint="Such as env=prod, site=fra"
        value={options.labels}
        onChange={(labels) => onOptions({ labels })}
      />
      <ListField
        label="Labels from variables"
        hint="Names of variables of the inventory, such as env"
        text={options.labelsFrom}
        options={variablesOf(found)}
        onInput={(labelsFrom) => onOptions({ labelsFrom })}
      />
      <Further options={options} onOptions={onOptions} />
    </>
  );
}

function Further({ options, onOptions }: Omit<OptionsProps, "found">) {
  return (
    <details>
      <summary>Zone, host keys, labels and groups that are there</summary>
      <div class="form">
        <TextField
          label="Zone"
          hint="Whose workers reach them; empty: default"
          value={options.zone}
          onChange={(zone) => onOptions({ zone })}
        />
        <Field label="Host keys">
          <Select
            of={POLICIES}
            value={options.hostKeyPolicy}
            onChange={(hostKeyPolicy) => onOptions({ hostKeyPolicy })}
          />
        </Field>
        <Check
          label="Remove labels that the text does not have"
          hint="Otherwise they are added to those of a target."
          checked={options.replaceLabels}
          onChange={(replaceLabels) => onOptions({ replaceLabels })}
        />
        <Check
          label="Remove targets from groups that the text does not have"
          checked={options.replaceGroups}
          onChange={(replaceGroups) => onOptions({ replaceGroups })}
        />
      </div>
    </details>
  );
}

/** Which credential each login user has, and all others. */
function Logins({ found, options, onOptions }: OptionsProps) {
  const credentials = useResource(
    (signal) =>
      askIf(mayDoEverywhere("credentials:use"), () =>
        ask("GET /credentials", { query: { limit: 200 }, signal }),
      ),
    [],
  );
  const all = credentials.data.value?.items ?? [];
  const names = all.filter((one) => one.type !== "secret").map((one) => one.name);
  const users = usersOf(found);
  if (names.length === 0)
    return users.length > 0 && credentials.data.value ? (
      <p class="small dim">
        There is no credential yet for <Text of={users.slice(0, USERS_SHOWN).join(", ")} />: the
        targets are imported without a login.
      </p>
    ) : null;
  const choices = (none: string) => ({
    "": none,
    ...Object.fromEntries(names.map((name) => [name, name])),
  });
  const set = (user: string, name: string) =>
    onOptions({ credentials: { ...options.credentials, [user]: name } });
  return (
    <>
      {users.slice(0, USERS_SHOWN).map((user) => (
        <Field key={user} label={`${user} logs in with`}>
          <Select
            of={choices("what all others have")}
            value={ownOf(options.credentials, user) ?? ""}
            onChange={(name) => set(user, name)}
          />
        </Field>
      ))}
      <Field
        label={users.length > 0 ? "All others log in with" : "All log in with"}
        hint="Unless the text names another credential"
      >
        <Select
          of={choices("nothing yet")}
          value={options.credential}
          onChange={(credential) => onOptions({ credential })}
        />
      </Field>
    </>
  );
}
