/** The secret of a trigger, this once, with the address that needs it. */
import type { Trigger } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { CopyButton } from "../parts/copy.tsx";
import { SecretOnce } from "../parts/secret-once.tsx";

/** Return the address that callers use. */
export function addressOf(trigger: Trigger): string {
  return location.origin + PREFIX + trigger.path;
}

interface TriggerSecretProps {
  trigger: Trigger;
  secret: string;
  onClose: () => void;
}

export function TriggerSecret({ trigger, secret, onClose }: TriggerSecretProps) {
  const address = addressOf(trigger);
  return (
    <SecretOnce title={`The secret of ${trigger.name}`} secret={secret} onClose={onClose}>
      Whoever has it may launch the job by a POST to <code class="secret">{address}</code>
      <CopyButton text={address} what="address" />
    </SecretOnce>
  );
}
