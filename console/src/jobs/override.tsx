/** Saving a job that the safety check blocks: past the check, with a reason. */
import { Confirm } from "../parts/dialog.tsx";
import { Text } from "../parts/text.tsx";
import type { Remark } from "./yaml-body.ts";

interface OverrideDialogProps {
  /** What it does, such as "Create the job". */
  verb: string;
  /** What the check found. */
  remarks: readonly Remark[];
  onSave: (reason: string) => Promise<unknown>;
  onClose: () => void;
}

export function OverrideDialog({ verb, remarks, onSave, onClose }: OverrideDialogProps) {
  return (
    <Confirm
      title="Override the safety check?"
      verb={verb}
      danger
      reason="required"
      onConfirm={async (reason) => {
        await onSave(reason);
      }}
      onClose={onClose}
    >
      <ul class="stack-tight">
        {remarks
          .filter((one) => one.grave)
          .map((one) => (
            <li key={`${one.line} ${one.words}`} class="tone bad">
              <Text of={one.words} />
            </li>
          ))}
      </ul>
      <p>The audit log keeps the reason. Each launch of the job is checked again.</p>
    </Confirm>
  );
}
