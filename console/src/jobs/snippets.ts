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

/** Return the text with a snippet at the end of its field; null if that is not written as a block. */
export function added(text: string, { field, lines }: Snippet): string | null {
  const all = text.replace(/\n*$/, "").split("\n");
  const inserted = lines.map((line) => line.replace("key: step", `key: ${freeKey(text)}`));
  const at = all.findIndex((line) => line.startsWith(`${field}:`));
  if (at < 0) return [...all, `${field}:`, ...inserted, ""].join("\n");
  const rest = all[at]!.slice(field.length + 1)
    .replace(/\s#.*$/, "")
    .trim();
  if (rest && rest !== "[]" && rest !== "{}") return null;
  const next = all.findIndex((line, index) => index > at && /^[^\s#-]/.test(line));
  const end = next < 0 ? all.length : next;
  const block = all.slice(at + 1, end);
  // Items may also stand at the margin.
  const outdent = block.some((line) => line.startsWith("- ")) ? 2 : 0;
  const items = [...block, ...inserted.map((line) => line.slice(outdent))];
  return [...all.slice(0, at), `${field}:`, ...items, ...all.slice(end), ""].join("\n");
}

/** The key of a new step: step-2, or the next that is free. */
function freeKey(text: string): string {
  for (let number = 2; ; number++) {
    if (!new RegExp(`key: ["']?step-${number}\\b`).test(text)) return `step-${number}`;
  }
}
