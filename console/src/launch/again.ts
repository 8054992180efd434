/** What was launched without a stored job, as the launch form has it. */
import type { Specification } from "../api/types.ts";
import { KINDS, type Kind } from "./draft.ts";
import { pickedQuery } from "./selection.ts";

/** The query of the launch form, or why the form cannot hold it. */
export type Again = { query: string } | { why: string };

/** More names make an address that servers refuse. */
const NAMES_MAX = 500;
/** What the form has fields for. */
const OF_ACTION = ["key", "type", "command", "script", "interpreter", "timeout", "become"];
const OF_POLICY = ["max_parallel"];
const DEFAULTS: Readonly<Record<string, unknown>> = {
  on_failure: "stop",
  scope: "target",
  durable: "auto",
  outputs: "none",
  order: "inventory",
  on_lost: "ask",
  hold_offline: "0s",
  priority: 5,
};

type Fields = Record<string, unknown>;

export function launchAgain(spec: Specification, targets: readonly string[]): Again {
  const { actions, parameters, policy } = spec;
  const [action] = actions;
  const kind = KINDS.find((one) => one === (action?.["type"] ?? "command"));
  if (!action || actions.length !== 1)
    return { why: `The launch form takes one action, and this had ${actions.length}.` };
  if (kind === undefined) return { why: "The launch form takes a command or a script." };
  if (targets.length > NAMES_MAX)
    return { why: `The launch form takes up to ${NAMES_MAX} targets by name.` };
  const others = [...unlike(action, OF_ACTION), ...unlike(policy, OF_POLICY)];
  if (Object.keys(parameters).length) others.push("parameters");
  if (becomesOtherwise(action)) others.push("become");
  if (others.length) return { why: `The launch form has no field for ${others.join(", ")}.` };
  return { query: queryOf(kind, action, policy, targets).toString() };
}

function queryOf(kind: Kind, action: Fields, policy: Fields, targets: readonly string[]) {
  const query = new URLSearchParams(pickedQuery({ names: targets.join(",") }) as never);
  const set = (name: string, value: unknown) => {
    if (value !== undefined && value !== null) query.set(name, String(value));
  };
  if (kind !== "command") set("kind", kind);
  set("command", action["command"]);
  set("script", action["script"]);
  if (kind === "script") set("interpreter", action["interpreter"]);
  set("as", (action["become"] as Fields | null)?.["user"]);
  set("parallel", policy["max_parallel"]);
  set("timeout", action["timeout"]);
  return query;
}

/** The names of fields that are set to something that the form does not send. */
function unlike(fields: Fields, known: readonly string[]): string[] {
  return Object.entries(fields)
    .filter(([name, value]) => !known.includes(name) && !isUnset(name, value))
    .map(([name]) => name);
}

function isUnset(name: string, value: unknown): boolean {
  if (value === null || value === undefined || value === "" || value === false) return true;
  if (name === "expected_exit_codes") return JSON.stringify(value) === "[0]";
  if (typeof value === "object") return Object.keys(value).length === 0;
  return value === DEFAULTS[name] || value === 0;
}

/** The form becomes another user by sudo, without a password. */
function becomesOtherwise({ become }: Fields): boolean {
  const { method, credential } = (become ?? {}) as Fields;
  return (method !== undefined && method !== "sudo") || Boolean(credential);
}
