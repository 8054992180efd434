/** Parts of a job's definition that a button adds to its YAML. */

interface Snippet {
  name: string;
  /** What it is for, on hover. */
  about: string;
  /** The field of the job that it belongs into. */
  field: "actions" | "parameters" | "policy";
  /** Its lines, indented below the field. */
  lines: readonly string[];
}

/** By how much the lines of a snippet are indented. */
const INDENT = 2;

export const SNIPPETS: readonly Snippet[] = [
  {
    name: "Command",
    about: "One more step",
    field: "actions",
    lines: ["  - key: step", "    command: echo hello"],
  },
  {
    name: "Script",
    about: "One more step, of several lines",
    field: "actions",
    lines: [
      ...["  - key: step", "    type: script", "    interpreter: bash"],
      ...["    script: |", "      set -e", "      echo hello"],
    ],
  },
  {
    name: "Approval",
    about: "A person has to approve before the next step",
    field: "actions",
    lines: ["  - key: step", "    type: approval", "    message: Is the backup there?"],
  },
  {
    name: "Parameter",
    about: "Asked for at the launch; steps use its value by its name",
    field: "parameters",
    lines: ["  - name: service", "    label: Service", "    required: true"],
  },
  {
    name: "Waves",
    about: "One target first, then a tenth, then all; too many failures stop it",
    field: "policy",
    lines: ['  waves: [1, "10%", "100%"]', '  max_fail: "5%"'],
  },
];

/**
 * Return the text with a snippet at the end of its field; null if that is not written as a block.
 *
 * It is the same text if its field sets all of it already.
 */
export function added(text: string, { field, lines }: Snippet): string | null {
  const all = text.trim() ? text.replace(/\n*$/, "").split("\n") : [];
  const wanted = lines.map((line) => line.replace("key: step", `key: ${freeKey(text)}`));
  const at = all.findIndex((line) => line.startsWith(`${field}:`));
  if (at < 0) return [...all, `${field}:`, ...wanted, ""].join("\n");
  const [, value, comment] = /^(.*?)(\s+#.*)?$/.exec(all[at]!.slice(field.length + 1))!;
  if (!["", "[]", "{}"].includes(value!.trim())) return null;
  const end = endOfBlock(all, at);
  const block = all.slice(at + 1, end);
  const first = block.find((line) => /^\s*[^\s#]/.test(line));
  const indent = " ".repeat(first?.search(/\S/) ?? INDENT);
  const isList = wanted[0]!.startsWith("- ", INDENT);
  const inserted = wanted
    .map((line) => indent + line.slice(INDENT))
    .filter((line) => isList || !block.some((old) => old.startsWith(`${line.split(":")[0]}:`)));
  if (inserted.length === 0) return text;
  const head = `${field}:${comment ?? ""}`;
  return [...all.slice(0, at), head, ...block, ...inserted, ...all.slice(end), ""].join("\n");
}

/** The line behind a field's block: comments at the margin and empty lines belong to what follows. */
function endOfBlock(all: readonly string[], at: number): number {
  const next = all.findIndex((line, index) => index > at && /^[^\s#-]/.test(line));
  let end = next < 0 ? all.length : next;
  while (end > at + 1 && /^(#.*|\s*)$/.test(all[end - 1]!)) end--;
  return end;
}

/** The key of a new step: step-2, or the next that is free. */
function freeKey(text: string): string {
  for (let number = 2; ; number++) {
    if (!new RegExp(`key: ["']?step-${number}\\b`).test(text)) return `step-${number}`;
  }
}
