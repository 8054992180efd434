/** Fields of forms, with the server's own findings beside them. */
import { type ComponentChildren, cloneElement, type VNode } from "preact";
import { useId, useState } from "preact/hooks";
import { RequestError } from "../api/problem.ts";
import { Trouble } from "./trouble.tsx";

interface FieldProps {
  label: string;
  hint?: ComponentChildren;
  /** What is wrong with it. */
  fault?: string | null | undefined;
  /** One input, select or textarea. */
  children: VNode;
}

export function Field({ label, hint, fault, children }: FieldProps) {
  const id = useId();
  const about = [hint && `${id}-hint`, fault && `${id}-fault`].filter(Boolean).join(" ");
  const control = cloneElement(children, {
    id,
    "aria-describedby": about || undefined,
    "aria-invalid": fault ? "true" : undefined,
  });
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {control}
      {hint && (
        <span id={`${id}-hint`} class="small dim">
          {hint}
        </span>
      )}
      {fault && (
        <span id={`${id}-fault`} class="small fault">
          {fault}
        </span>
      )}
    </div>
  );
}

interface NameFieldProps {
  name: string;
  onChange: (name: string) => void;
  hint?: string;
  /** The refusal of the form. */
  error: RequestError | null;
}

/** The name of something new. */
export function NameField({ name, onChange, hint, error }: NameFieldProps) {
  return (
    <Field label="Name" hint={hint} fault={faultOf(error, "/name")}>
      <input
        class="input"
        autoComplete="off"
        required
        value={name}
        onInput={(event) => onChange(event.currentTarget.value)}
      />
    </Field>
  );
}

interface CheckProps {
  label: string;
  hint?: ComponentChildren;
  checked: boolean;
  onChange: (checked: boolean) => void;
}

/** A box to tick, with its words beside it. */
export function Check({ label, hint, checked, onChange }: CheckProps) {
  const id = useId();
  return (
    <div class="check-line">
      <input
        type="checkbox"
        id={id}
        class="check"
        checked={checked}
        aria-describedby={hint ? `${id}-hint` : undefined}
        onChange={(event) => onChange(event.currentTarget.checked)}
      />
      <label for={id}>{label}</label>
      {hint && (
        <span id={`${id}-hint`} class="small dim">
          {hint}
        </span>
      )}
    </div>
  );
}

/** Return what the server said about a field, by its JSON pointer such as `/policy/timeout`. */
export function faultOf(error: RequestError | null, pointer: string): string | null {
  return error?.errors.find((one) => one.pointer === pointer)?.detail ?? null;
}

interface FormProps {
  /** The button's words. */
  verb: string;
  onSubmit: () => Promise<void>;
  onCancel?: () => void;
  disabled?: boolean;
  /** The fields; they get the error of the last attempt. */
  children: (error: RequestError | null) => ComponentChildren;
}

/** A form that sends itself once at a time and shows why it was refused. */
export function Form({ verb, onSubmit, onCancel, disabled = false, children }: FormProps) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<RequestError | null>(null);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setError(null);
    try {
      await onSubmit();
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form class="form" onSubmit={submit}>
      {children(error)}
      {error && <Trouble error={error} />}
      <div class="actions">
        {onCancel && (
          <button type="button" class="button" onClick={onCancel}>
            Go back
          </button>
        )}
        <button class="button primary" disabled={busy || disabled} aria-busy={busy}>
          {verb}
        </button>
      </div>
    </form>
  );
}
