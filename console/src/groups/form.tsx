/** A new group of targets, or a changed one. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import { asRead } from "../api/stale.ts";
import type { Group } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { faultIn, faultOf, Form, NameField, TextField } from "../parts/form.tsx";
import { ListField } from "../parts/picker.tsx";
import { toast } from "../parts/toast.tsx";
import { listOf } from "../targets/draft.ts";

interface GroupFormProps {
  /** Null: a new one. */
  group: Group | null;
  /** Names of all groups, for those that it contains. */
  names: readonly string[];
  onClose: () => void;
}

export function GroupForm({ group, names, onClose }: GroupFormProps) {
  const [name, setName] = useState(group?.name ?? "");
  const [description, setDescription] = useState(group?.description ?? "");
  const [selector, setSelector] = useState(group?.selector ?? "");
  const [groups, setGroups] = useState((group?.groups ?? []).join(", "));
  const save = async () => {
    const body = {
      name: name.trim(),
      description: description.trim(),
      selector: selector.trim() || null,
      groups: listOf(groups),
      ...(group && asRead(group)),
    };
    // Targets that name it stay as they are: the form does not send them.
    if (group) await ask("PUT /target-groups/{id}", { path: { id: String(group.id) }, body });
    else await ask("POST /target-groups", { body });
    toast(`${body.name} was ${group ? "changed" : "created"}`);
    onClose();
  };
  return (
    <Dialog title={group ? `Change ${group.name}` : "New group"} onClose={onClose}>
      <Form verb={group ? "Save" : "Create the group"} onSubmit={save} onCancel={onClose}>
        {(error) => (
          <>
            <NameField
              name={name}
              onChange={setName}
              error={error}
              hint={group ? "Targets and groups that name it take over a new name." : "Such as web"}
            />
            <TextField
              label="Has all targets with the labels"
              hint="Such as env=prod,role=web; empty: those that name it"
              mono
              value={selector}
              onChange={setSelector}
              fault={faultOf(error, "/selector")}
            />
            <ListField
              label="Contains the groups"
              hint="Separated by commas"
              text={groups}
              options={names.filter((one) => one !== group?.name)}
              fault={faultIn(error, "/groups")}
              onInput={setGroups}
            />
            <TextField
              label="Description"
              value={description}
              onChange={setDescription}
              fault={faultOf(error, "/description")}
            />
          </>
        )}
      </Form>
    </Dialog>
  );
}
