/** What somebody wants to run now: in the URL, as a request, as a command. */
import type { RunDraft } from "../api/types.ts";
import { commandLine } from "../parts/command-line.ts";
import { type Picked, pickedOf, selectionOf, selectionWords } from "./selection.ts";

export const KINDS = ["command", "script", "file"] as const;
export type Kind = (typeof KINDS)[number];

export interface LaunchDraft {
  kind: Kind;
  command: string;
  script: string;
  interpreter: string;
  /** The name of an uploaded file. */
  source: string;
  destination: string;
  picked: Picked;
  /** The user to become; "" is the login itself. */
  user: string;
  parallel: string;
  timeout: string;
  reason: string;
}

export function draftOf(query: URLSearchParams): LaunchDraft {
  const read = (name: string) => query.get(name) ?? "";
  const kind = KINDS.find((one) => one === read("kind")) ?? "command";
  return {
    kind,
    command: read("command"),
    script: read("script"),
    interpreter: read("interpreter") || "bash",
    source: read("source"),
    destination: read("to"),
    picked: pickedOf(query),
    user: read("as"),
    parallel: read("parallel"),
    timeout: read("timeout"),
    reason: read("why"),
  };
}

/** Return what is still missing, in words; null if a request can be made. */
export function missing(draft: LaunchDraft): string | null {
  if (draft.kind === "command" && !draft.command.trim()) return "Write a command.";
  if (draft.kind === "script" && !draft.script.trim()) return "Write a script.";
  if (draft.kind === "file" && !draft.source) return "Choose a file.";
  if (draft.kind === "file" && !draft.destination.trim()) return "Write a destination.";
  if (selectionOf(draft.picked) === null) return "Select targets.";
  if (draft.parallel && !/^[1-9]\d{0,4}$/.test(draft.parallel))
    return "Parallel: write a number, such as 50.";
  return null;
}

/** Return the body of POST /run; null while something is missing. */
export function runBody(draft: LaunchDraft): RunDraft | null {
  const targets = selectionOf(draft.picked);
  if (targets === null || missing(draft) !== null) return null;
  const body: RunDraft = { actions: [actionOf(draft)], targets };
  if (draft.parallel) body.policy = { max_parallel: Number(draft.parallel) };
  if (draft.reason.trim()) body.reason = draft.reason.trim();
  return body;
}

function actionOf(draft: LaunchDraft): RunDraft["actions"][number] {
  const timeout = draft.timeout.trim() ? { timeout: draft.timeout.trim() } : {};
  const user = draft.user.trim();
  const become = user ? { become: { user } } : {};
  if (draft.kind === "command") return { command: draft.command, ...timeout, ...become };
  if (draft.kind === "script")
    return { script: draft.script, interpreter: draft.interpreter, ...timeout, ...become };
  const { source, destination } = draft;
  return {
    type: "file_transfer",
    direction: "upload",
    source,
    destination: destination.trim(),
    ...timeout,
  };
}

/** Return the command that does the same; null for a file, which only a job or the API can send. */
export function launchCommand(draft: LaunchDraft): string | null {
  if (draft.kind === "file") return null;
  const words = ["opsjobs", "run"];
  if (draft.kind === "command") words.push(draft.command);
  else words.push("--script", "-", "--interpreter", draft.interpreter);
  words.push(...selectionWords(draft.picked));
  if (draft.user.trim()) words.push("--become-user", draft.user.trim());
  if (draft.parallel) words.push("--parallel", draft.parallel);
  if (draft.timeout.trim()) words.push("--timeout", draft.timeout.trim());
  if (draft.reason.trim()) words.push("--reason", draft.reason.trim());
  const line = commandLine(...words);
  if (draft.kind === "command") return line;
  const text = draft.script.endsWith("\n") ? draft.script : `${draft.script}\n`;
  const end = endMark(text);
  return `${line} <<'${end}'\n${text}${end}`;
}

/** Return a word that is no line of the text. */
function endMark(text: string): string {
  const lines = new Set(text.split("\n"));
  let mark = "EOF";
  while (lines.has(mark)) mark += "_";
  return mark;
}
