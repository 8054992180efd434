/** A secret that is shown this once. */
import type { ComponentChildren } from "preact";
import { CopyButton } from "./copy.tsx";
import { Dialog } from "./dialog.tsx";
import "../style/forms.css";

interface SecretOnceProps {
  title: string;
  secret: string;
  /** What it is for, and what its holder may do. */
  children: ComponentChildren;
  onClose: () => void;
}

export function SecretOnce({ title, secret, children, onClose }: SecretOnceProps) {
  return (
    <Dialog title={title} onClose={onClose}>
      <p>It is shown this once. {children}</p>
      <p class="row">
        <code class="secret">{secret}</code>
        <CopyButton text={secret} what="secret" />
      </p>
      <div class="actions">
        <button type="button" class="button primary" onClick={onClose}>
          I have stored it
        </button>
      </div>
    </Dialog>
  );
}
