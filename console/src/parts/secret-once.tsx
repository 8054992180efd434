/** A secret that is shown only once. */
import type { ComponentChildren } from "preact";
import { CopyButton } from "./copy.tsx";
import { Dialog } from "./dialog.tsx";
import "../style/forms.css";

interface SecretOnceProps {
  title: string;
  secret: string;
  /** What is copied. */
  what?: string;
  /** The button of who has stored it. */
  done?: string;
  /** What it is for, and what its holder may do. */
  children: ComponentChildren;
  onClose: () => void;
}

export function SecretOnce(props: SecretOnceProps) {
  const { title, secret, what = "secret", done = "I have stored it", children, onClose } = props;
  return (
    <Dialog title={title} onClose={onClose}>
      <p>It is shown only once. {children}</p>
      <p class="row">
        <code class="secret">{secret}</code>
        <CopyButton text={secret} what={what} />
      </p>
      <div class="actions">
        <button type="button" class="button primary" onClick={onClose}>
          {done}
        </button>
      </div>
    </Dialog>
  );
}
