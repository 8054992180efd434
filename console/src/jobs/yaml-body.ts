/** A definition that somebody writes in YAML: its body for the API, and the lines of its parts. */

/** Something wrong, and where. */
export interface Remark {
  /** From 1; null: of the whole. */
  line: number | null;
  words: string;
  /** Errors refuse the job, warnings do not. */
  grave: boolean;
}

export interface ReadYaml {
  /** Null: it is no YAML, or no object. */
  body: Record<string, unknown> | null;
  remarks: readonly Remark[];
  /** Return the line of what a JSON Pointer names, or of what is nearest around it. */
  lineOf: (pointer: string) => number | null;
}

const SEVERAL = "This form takes one job. Several at once: opsjobs jobs apply -f FILE.";

/** True for what `opsjobs jobs export` writes. */
const isExport = (value: unknown): boolean =>
  value !== null && typeof value === "object" && Object.keys(value).join() === "jobs";

/** Read a text; the reader is loaded when it is first needed. */
export async function readYaml(text: string): Promise<ReadYaml> {
  const { LineCounter, parseDocument } = await import("yaml");
  const lineCounter = new LineCounter();
  const found = parseDocument(text, { lineCounter, prettyErrors: false });
  const lineAt = (offset: number) => lineCounter.linePos(offset).line;
  const remarks = found.errors.map((error) => ({
    line: lineAt(error.pos[0]),
    words: error.code === "MULTIPLE_DOCS" ? SEVERAL : `${error.message}.`.replace(/\.\.$/, "."),
    grave: true,
  }));
  if (remarks.length) return { body: null, remarks, lineOf: () => null };
  const lineOf = (pointer: string): number | null => {
    for (let steps = stepsOf(pointer); steps.length; steps = steps.slice(0, -1)) {
      const node = found.getIn(steps, true) as { range?: [number, number, number] } | undefined;
      if (node?.range) return lineAt(node.range[0]);
    }
    return null;
  };
  const value: unknown = found.toJS();
  if (isExport(value))
    return { body: null, remarks: [{ line: 1, words: SEVERAL, grave: true }], lineOf };
  if (value !== null && typeof value === "object" && !Array.isArray(value))
    return { body: value as Record<string, unknown>, remarks, lineOf };
  const words = "Write the fields of a job: name, targets, actions.";
  return { body: null, remarks: [{ line: null, words, grave: true }], lineOf };
}

function stepsOf(pointer: string): string[] {
  return pointer
    .split("/")
    .slice(1)
    .map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
}
