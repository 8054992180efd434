/** A job's definition as YAML, without what nobody wrote, and the difference of two of them. */
import { ask } from "../api/ask.ts";
import type { Job, JobDefinition, JobVersion } from "../api/types.ts";

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
const ADDED = new Set(
  ["id", "uuid", "version", "status", "created_at", "updated_at", "created_by"].concat([
    ...["verdict", "findings", "recent", "state", "can", "cannot"],
  ]),
);

/** Return the definition without defaults that say nothing: null, "", empty lists and objects. */
export function written(job: Job | JobVersion | JobDefinition): { [key: string]: Json } {
  const entries = Object.entries(job as unknown as { [key: string]: Json });
  return trimmed(Object.fromEntries(entries.filter(([key]) => !ADDED.has(key)))) as {
    [key: string]: Json;
  };
}

function trimmed(value: Json): Json {
  if (Array.isArray(value)) return value.map(trimmed);
  if (value === null || typeof value !== "object") return value;
  const kept: { [key: string]: Json } = {};
  for (const [key, inner] of Object.entries(value)) {
    const one = trimmed(inner);
    if (!isNothing(one)) kept[key] = one;
  }
  return kept;
}

function isNothing(value: Json): boolean {
  if (value === null || value === "") return true;
  return typeof value === "object" && Object.keys(value).length === 0;
}

/** Return a definition as YAML; the writer is loaded when it is first needed. */
export async function toYaml(job: Job | JobVersion | JobDefinition): Promise<string> {
  const { stringify } = await import("yaml");
  const { name, description, ...rest } = written(job);
  return stringify({ name, description, ...rest }, { lineWidth: 100 });
}

/**
 * Return the job's definition as YAML, as it was written: without what is the default.
 *
 * Unlike `toYaml` it leaves nothing out that somebody wrote, so that it can be saved again.
 */
export async function writtenYaml(job: Job, signal?: AbortSignal): Promise<string> {
  const path = { id: String(job.id) };
  const found = await ask("GET /jobs/{id}/definition", { path, ...(signal && { signal }) });
  const { stringify } = await import("yaml");
  const { name, description, ...rest } = found as unknown as Record<string, unknown>;
  return stringify({ name, description, ...rest }, { lineWidth: 100 });
}

const CONTEXT_LINES = 3;

export interface DiffLine {
  /** …: lines that are the same are left out here. */
  sign: "+" | "−" | " " | "…";
  text: string;
}

/** Return the lines that differ between two texts, each with a few lines around it. */
export async function lineDiff(before: string, after: string): Promise<DiffLine[]> {
  const { diffLines } = await import("./text-diff.ts");
  const lines = diffLines(before, after).flatMap((part) => {
    const sign = part.added ? "+" : part.removed ? "−" : " ";
    const texts = part.value.replace(/\n$/, "").split("\n");
    return texts.map((text): DiffLine => ({ sign, text }));
  });
  return folded(lines);
}

/** Return the lines without those far from any difference. */
export function folded(lines: readonly DiffLine[]): DiffLine[] {
  const near = new Set<number>();
  for (const [at, line] of lines.entries()) {
    if (line.sign === " ") continue;
    for (let by = -CONTEXT_LINES; by <= CONTEXT_LINES; by++) near.add(at + by);
  }
  const shown: DiffLine[] = [];
  for (const [at, line] of lines.entries()) {
    if (near.has(at)) shown.push(line);
    else if (shown.at(-1)?.sign !== "…") shown.push({ sign: "…", text: "" });
  }
  return shown;
}
