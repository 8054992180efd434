/** Restricts a credential to some targets, groups and jobs. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Credential } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { faultIn, Form, TextField } from "../parts/form.tsx";
import { TargetField } from "../parts/picker.tsx";
import { toast } from "../parts/toast.tsx";
import { listOf } from "../targets/draft.ts";

interface BindProps {
  credential: Credential;
  onDone: () => Promise<void>;
  onClose: () => void;
}

export function Bind({ credential, onDone, onClose }: BindProps) {
  const { bound_to } = credential;
  const [targets, setTargets] = useState((bound_to.targets ?? []).join(", "));
  const [groups, setGroups] = useState((bound_to.groups ?? []).join(", "));
  const [jobs, setJobs] = useState((bound_to.jobs ?? []).join(", "));
  const save = async () => {
    await ask("PUT /credentials/{id}/bound-to", {
      path: { id: String(credential.id) },
      body: { targets: listOf(targets), groups: listOf(groups), jobs: listOf(jobs) },
    });
    toast(`${credential.name} is bound so`);
    await onDone();
    onClose();
  };
  return (
    <Dialog title={`Where ${credential.name} may be used`} onClose={onClose}>
      <Form verb="Save" onSubmit={save} onCancel={onClose}>
        {(error) => {
          const fault = (name: string) => faultIn(error, `/${name}`);
          return (
            <>
              <p class="dim">All empty: anywhere.</p>
              <TargetField
                label="On the targets"
                hint="Names, separated by commas"
                text={targets}
                fault={fault("targets")}
                onInput={setTargets}
              />
              <TextField
                label="On the targets of the groups"
                value={groups}
                onChange={setGroups}
                fault={fault("groups")}
              />
              <TextField
                label="In the jobs"
                value={jobs}
                onChange={setJobs}
                fault={fault("jobs")}
              />
            </>
          );
        }}
      </Form>
    </Dialog>
  );
}
