/** Fields of forms, with the server's own findings beside them. */
import { type ComponentChildren, cloneElement, type VNode } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { RequestError } from "../api/problem.ts";
import { inWords } from "../api/stale.ts";
import { leave, setUnsaved } from "../state/unsaved.ts";
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

interface TextFieldProps {
  label: string;
  value: string;
  onChange: (text: string) => void;
  hint?: ComponentChildren;
  fault?: string | null;
  required?: boolean;
  /** Text of programs: a command, an address. */
  mono?: boolean;
  /** The id of a datalist. */
  list?: string;
}

/** A line of text. */
export function TextField(props: TextFieldProps) {
  const { label, value, onChange, hint, fault, required = false, mono = false, list } = props;
  return (
    <Field label={label} hint={hint} fault={fault}>
      <input
        class={mono ? "input mono" : "input"}
        autoComplete="off"
        autoCapitalize="none"
        spellcheck={false}
        required={required}
        list={list}
        value={value}
        onInput={(event) => onChange(event.currentTarget.value)}
      />
    </Field>
  );
}

interface SelectProps<T extends string> {
  /** The words of each value. */
  of: Readonly<Record<T, string>>;
  value: T;
  onChange: (value: T) => void;
}

/** A choice of few values, in a Field: what that adds is passed on. */
export function Select<T extends string>({ of, value, onChange, ...rest }: SelectProps<T>) {
  return (
    <select
      {...rest}
      class="input"
      value={value}
      onChange={(event) => onChange(event.currentTarget.value as T)}
    >
      {Object.entries<string>(of).map(([name, words]) => (
        <option key={name} value={name}>
          {words}
        </option>
      ))}
    </select>
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

/** Return what the server says of a field or of any part of it, such as one name of a list. */
export function faultIn(error: RequestError | null, pointer: string): string | null {
  const found = error?.errors.find(
    (one) => one.pointer === pointer || one.pointer?.startsWith(`${pointer}/`),
  );
  return found?.detail ?? null;
}

interface FormProps {
  /** The button's words. */
  verb: string;
  /** Send it; false: it was not sent. */
  onSubmit: () => Promise<unknown>;
  onCancel?: () => void;
  disabled?: boolean;
  /** It may be left without a question: a login. */
  fleeting?: boolean;
  /** The fields; they get the error of the last attempt. */
  children: (error: RequestError | null) => ComponentChildren;
}

/** A form that sends itself once at a time, shows why it was refused, and asks before it is lost. */
export function Form(props: FormProps) {
  const { verb, onSubmit, onCancel, disabled = false, fleeting = false, children } = props;
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<RequestError | null>(null);
  const box = useRef<HTMLFormElement>(null);
  const mark = (unsaved: boolean) => box.current && setUnsaved(box.current, unsaved && !fleeting);
  useEffect(() => {
    const form = box.current!;
    return () => setUnsaved(form, false);
  }, []);
  useEffect(() => {
    if (error) box.current!.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus();
  }, [error]);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy || disabled) return;
    setBusy(true);
    setError(null);
    mark(false);
    try {
      if ((await onSubmit()) === false) mark(true);
    } catch (failed) {
      mark(true);
      if (!(failed instanceof RequestError)) throw failed;
      setError(inWords(failed));
    } finally {
      setBusy(false);
    }
  };
  return (
    <form ref={box} class="form" onSubmit={submit} onInput={() => mark(true)}>
      {children(error)}
      {error && <Trouble error={error} />}
      <div class="actions">
        {onCancel && (
          <button
            type="button"
            class="button"
            onClick={() => leave(onCancel, box.current ?? undefined)}
          >
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
