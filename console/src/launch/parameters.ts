/** Values of a job's parameters: as typed, in the URL, checked while typing, for the API. */
import type { Job, ParameterDraft } from "../api/types.ts";
import { commandLine } from "../parts/command-line.ts";
import { type Picked, selectionOf, selectionWords } from "./selection.ts";

/** Texts by parameter; several values of a multi_choice stand on lines of their own. */
export type Typed = Readonly<Record<string, string>>;

const PREFIX = "p.";

export function isSecret(parameter: ParameterDraft): boolean {
  return parameter.type === "secret" || parameter.secret === true;
}

/** The name of a parameter in the URL; null if its value may not stand there. */
export function queryName(parameter: ParameterDraft): string | null {
  return isSecret(parameter) ? null : PREFIX + parameter.name;
}

/** Return what the URL gives, over the defaults. */
export function typedOf(job: Pick<Job, "parameters">, query: URLSearchParams): Typed {
  const typed: Record<string, string> = {};
  for (const parameter of job.parameters) {
    const name = queryName(parameter);
    const given = name === null ? null : query.get(name);
    typed[parameter.name] = given ?? textOf(parameter.default);
  }
  return typed;
}

/** Return a value as a field shows it. */
export function textOf(value: ParameterDraft["default"]): string {
  if (value === null || value === undefined) return "";
  return Array.isArray(value) ? value.map(String).join("\n") : String(value);
}

/** Return what is wrong with a text; null if nothing is that a browser can see. */
export function faultOf(parameter: ParameterDraft, text: string): string | null {
  if (text.trim() === "") {
    const needed = parameter.required && !parameter.from_credential;
    return needed ? "It is required." : null;
  }
  if (parameter.type === "integer" || parameter.type === "number")
    return numberFault(parameter, text.trim());
  if (parameter.type === "datetime" && Number.isNaN(Date.parse(text)))
    return "Write a time with its zone, such as 2026-12-01T02:30:00Z.";
  const { min_length, max_length, pattern } = parameter;
  if (min_length && text.length < min_length) return `It needs at least ${min_length} characters.`;
  if (max_length && text.length > max_length) return `It has more than ${max_length} characters.`;
  if (pattern && parameter.type === "string" && fits(pattern, text) === false)
    return `It must fit ${pattern}.`;
  return null;
}

function numberFault(parameter: ParameterDraft, text: string): string | null {
  const shape = parameter.type === "integer" ? /^-?\d+$/ : /^-?\d+(\.\d+)?([eE][+-]?\d+)?$/;
  if (!shape.test(text))
    return parameter.type === "integer" ? "Write a whole number." : "Write a number.";
  const { min, max } = parameter;
  if (typeof min === "number" && Number(text) < min) return `It must be at least ${min}.`;
  if (typeof max === "number" && Number(text) > max) return `It must be at most ${max}.`;
  return null;
}

/** Null if the browser does not know this pattern: the server's language is another one. */
function fits(pattern: string, text: string): boolean | null {
  try {
    return new RegExp(`^(?:${pattern})$`, "u").test(text);
  } catch {
    return null;
  }
}

/** Return the values for the API; what is empty is left out, so that defaults hold. */
export function valuesOf(job: Pick<Job, "parameters">, typed: Typed): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const parameter of job.parameters) {
    const text = typed[parameter.name] ?? "";
    if (text.trim() !== "") values[parameter.name] = toValue(parameter, text);
  }
  return values;
}

function toValue(parameter: ParameterDraft, text: string): unknown {
  switch (parameter.type) {
    case "integer":
    case "number":
      return Number(text);
    case "boolean":
      return text === "true";
    case "choice":
      return parameter.choices?.find((choice) => String(choice) === text) ?? text;
    case "multi_choice":
      return text
        .split("\n")
        .map((one) => parameter.choices?.find((choice) => String(choice) === one) ?? one);
    case "host_list":
      return text
        .split(/[\s,]+/)
        .map((host) => host.trim())
        .filter(Boolean);
    default:
      return text;
  }
}

/** Return the command that launches the job with these values; secrets are asked for. */
export function jobCommand(
  job: Pick<Job, "name" | "parameters">,
  typed: Typed,
  picked: Picked,
  reason: string,
): string {
  const words = ["opsjobs", "jobs", "run", job.name];
  for (const parameter of job.parameters) {
    const text = typed[parameter.name] ?? "";
    if (text.trim() === "" || isSecret(parameter)) continue;
    words.push("-p", `${parameter.name}=${text.split("\n").join(",")}`);
  }
  words.push(...selectionWords(picked));
  if (reason.trim()) words.push("--reason", reason.trim());
  return commandLine(...words);
}

/** Return the body of POST /jobs/{id}/execute. */
export function executeBody(
  job: Pick<Job, "parameters">,
  typed: Typed,
  picked: Picked,
  reason: string,
) {
  const targets = selectionOf(picked, true);
  return {
    parameters: valuesOf(job, typed),
    ...(targets && { targets }),
    ...(reason.trim() && { reason: reason.trim() }),
  };
}
