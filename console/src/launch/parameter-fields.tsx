/** The form of a job's parameters: a field for each, by its type, checked while typing. */
import type { ParameterDraft } from "../api/types.ts";
import { Check, Field } from "../parts/form.tsx";
import { markHidden } from "../parts/hidden-characters.ts";
import { faultOf, isSecret, type Typed } from "./parameters.ts";

interface FieldsProps {
  parameters: readonly ParameterDraft[];
  typed: Typed;
  /** Fields that were left or changed: only their faults are shown. */
  touched: ReadonlySet<string>;
  onInput: (parameter: ParameterDraft, text: string) => void;
}

export function ParameterFields({ parameters, typed, touched, onInput }: FieldsProps) {
  return (
    <>
      {parameters.map((parameter) => (
        <ParameterField
          key={parameter.name}
          parameter={parameter}
          text={typed[parameter.name] ?? ""}
          touched={touched.has(parameter.name)}
          onInput={(text) => onInput(parameter, text)}
        />
      ))}
    </>
  );
}

interface ParameterFieldProps {
  parameter: ParameterDraft;
  text: string;
  touched: boolean;
  onInput: (text: string) => void;
}

function ParameterField({ parameter, text, touched, onInput }: ParameterFieldProps) {
  const label = markHidden(parameter.label || parameter.name);
  const hint = hintOf(parameter);
  if (parameter.type === "boolean")
    return (
      <Check
        label={label}
        hint={hint}
        checked={text === "true"}
        onChange={(checked) => onInput(String(checked))}
      />
    );
  if (parameter.type === "multi_choice" && parameter.choices)
    return (
      <Choices parameter={parameter} label={label} hint={hint} text={text} onInput={onInput} />
    );
  const fault = touched ? faultOf(parameter, text) : null;
  return (
    <Field label={parameter.required ? `${label} (required)` : label} hint={hint} fault={fault}>
      {control(parameter, text, onInput)}
    </Field>
  );
}

function hintOf(parameter: ParameterDraft): string | undefined {
  const words = [parameter.description];
  if (parameter.from_credential) words.push(`Empty: the credential ${parameter.from_credential}.`);
  if (parameter.type === "host_list") words.push("Hosts, with commas or blanks between them.");
  if (parameter.type === "datetime") words.push("A time with its zone.");
  return markHidden(words.filter(Boolean).join(" ")) || undefined;
}

function control(parameter: ParameterDraft, text: string, onInput: (text: string) => void) {
  const onChange = (event: { currentTarget: { value: string } }) =>
    onInput(event.currentTarget.value);
  if (parameter.type === "choice" && parameter.choices)
    return (
      <select class="input" value={text} onChange={onChange}>
        <option value="">{parameter.required ? "Choose one" : "Nothing"}</option>
        {parameter.choices.map((choice) => (
          <option key={String(choice)} value={String(choice)}>
            {markHidden(String(choice))}
          </option>
        ))}
      </select>
    );
  if (parameter.type === "host_list")
    return <textarea class="input" rows={3} value={text} spellcheck={false} onInput={onChange} />;
  const isNumber = parameter.type === "integer" || parameter.type === "number";
  const shared = {
    class: "input",
    "aria-required": parameter.required ? ("true" as const) : undefined,
    value: text,
    onInput: onChange,
  };
  if (isSecret(parameter)) return <input type="password" autoComplete="new-password" {...shared} />;
  return (
    <input
      inputMode={isNumber ? "decimal" : undefined}
      autoComplete="off"
      placeholder={parameter.type === "datetime" ? "2026-12-01T02:30:00Z" : undefined}
      {...shared}
    />
  );
}

interface ChoicesProps extends Omit<ParameterFieldProps, "touched"> {
  label: string;
  hint: string | undefined;
}

function Choices({ parameter, label, hint, text, onInput }: ChoicesProps) {
  const chosen = new Set(text.split("\n").filter(Boolean));
  const toggle = (value: string, on: boolean) => {
    const all = (parameter.choices ?? []).map(String);
    onInput(all.filter((one) => (one === value ? on : chosen.has(one))).join("\n"));
  };
  return (
    <fieldset class="form picker">
      <legend>{parameter.required ? `${label} (required)` : label}</legend>
      {hint && <p class="small dim">{hint}</p>}
      {(parameter.choices ?? []).map((choice) => (
        <Check
          key={String(choice)}
          label={markHidden(String(choice))}
          checked={chosen.has(String(choice))}
          onChange={(on) => toggle(String(choice), on)}
        />
      ))}
    </fieldset>
  );
}
