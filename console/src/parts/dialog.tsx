/** Dialogs over the page. Esc closes; the focus goes back to where it was. */
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { RequestError } from "../api/problem.ts";
import { inWords } from "../api/stale.ts";
import { leave } from "../state/unsaved.ts";
import { Field } from "./form.tsx";
import { Trouble } from "./trouble.tsx";

interface DialogProps {
  title: string;
  onClose: () => void;
  wide?: boolean;
  children: ComponentChildren;
}

export function Dialog({ title, onClose, wide = false, children }: DialogProps) {
  const box = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = box.current!;
    const before = document.activeElement;
    dialog.showModal();
    focusFirst(dialog);
    return () => {
      dialog.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={box}
      class={wide ? "wide" : ""}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        leave(onClose, box.current!);
      }}
    >
      <div class="content">
        <h2 id={id}>{title}</h2>
        {children}
      </div>
    </dialog>
  );
}

/** Begin where something has to be typed, or else at the heading: not at a button beside a text. */
function focusFirst(dialog: HTMLElement): void {
  const wanted = dialog.querySelector<HTMLElement>("[data-first]");
  if (wanted) {
    wanted.focus();
  } else if (!document.activeElement?.matches("input, textarea, select")) {
    const heading = dialog.querySelector("h2")!;
    heading.tabIndex = -1;
    heading.focus();
  }
}

/** From this number of targets on it is typed. */
export const TYPED_FROM = 50;

interface ConfirmProps {
  title: string;
  /** What will be done, with the number and the labels. */
  children: ComponentChildren;
  /** The button's words, such as "Retry 1,203". */
  verb: string;
  /** How many things are touched: from 50 on, or if `careful`, it has to be typed. */
  count?: number;
  careful?: boolean;
  danger?: boolean;
  /** False while something else is missing, such as a box to tick. */
  ready?: boolean;
  /** Ask for a reason; "required" refuses an empty one. */
  reason?: "optional" | "required";
  /** The reason that was typed before. */
  given?: string;
  /** Do it. An error stays in the dialog. */
  onConfirm: (reason: string) => Promise<void>;
  onClose: () => void;
}

export function Confirm(props: ConfirmProps) {
  const { title, children, verb, count = 1, careful = false, danger, reason, onClose } = props;
  const typed = count >= TYPED_FROM || careful;
  const [number, setNumber] = useState("");
  const [words, setWords] = useState(props.given ?? "");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<RequestError | null>(null);
  const ready =
    props.ready !== false &&
    (!typed || number.trim() === String(count)) &&
    (reason !== "required" || words.trim() !== "");
  const submit = async (event: Event) => {
    event.preventDefault();
    if (!ready || busy) return;
    setBusy(true);
    setError(null);
    try {
      await props.onConfirm(words.trim());
      onClose();
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(inWords(failed));
      setBusy(false);
    }
  };
  return (
    <Dialog title={title} onClose={onClose}>
      <form class="form" onSubmit={submit}>
        {children}
        {reason && (
          <Field label={reason === "required" ? "Reason" : "Reason (optional)"}>
            <input
              class="input"
              value={words}
              maxLength={500}
              data-first={reason === "required" ? "" : undefined}
              onInput={(event) => setWords(event.currentTarget.value)}
            />
          </Field>
        )}
        {typed && (
          <Field label={`Type ${count} to confirm`}>
            <input
              class="input"
              inputMode="numeric"
              autoComplete="off"
              value={number}
              data-first={reason === "required" ? undefined : ""}
              onInput={(event) => setNumber(event.currentTarget.value)}
            />
          </Field>
        )}
        {error && <Trouble error={error} />}
        <div class="actions">
          <button type="button" class="button" onClick={onClose}>
            Go back
          </button>
          <button
            class={danger ? "button danger" : "button primary"}
            disabled={!ready || busy}
            aria-busy={busy}
          >
            {verb}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
