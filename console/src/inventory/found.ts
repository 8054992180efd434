/** What was read of an inventory: targets, and what is not taken over, each with its reason. */

export const TARGETS_MAX = 10_000;

/** One host; only what is given is there. */
export interface FoundTarget {
  name: string;
  host: string;
  port?: number | undefined;
  /** The login user and the path of a private key, which choose the credential. */
  user?: string | undefined;
  key?: string | undefined;
  credential?: string | undefined;
  groups?: string[] | undefined;
  labels?: Record<string, string> | undefined;
  jump?: string | undefined;
  transport?: string | undefined;
  platform?: string | undefined;
  /** The options of a Windows host. */
  winrm?: Record<string, unknown> | undefined;
  zone?: string | undefined;
  slots?: number | undefined;
  /** Other values, from which labels can be made. */
  variables?: Variables | undefined;
  /** Fields of a target that was written as one, as they are. */
  written?: Record<string, unknown> | undefined;
}

export type Variables = Record<string, string>;

export interface Skipped {
  what: string;
  reason: string;
  /** A whole host is left out. */
  target: boolean;
}

export interface Inventory {
  found: FoundTarget[];
  left: Skipped[];
}

const FIELDS = [
  ...["name", "host", "port", "credential", "groups", "labels", "jump", "transport", "platform"],
  ...["winrm", "zone", "slots"],
] as const;

/** Return the entry of POST /targets/import, with only the given fields. */
export function entryOf(target: FoundTarget): Record<string, unknown> {
  if (target.written) return target.written;
  const fields = target as unknown as Record<string, unknown>;
  const given = FIELDS.filter((name) => !isEmpty(fields[name]));
  return Object.fromEntries(given.map((name) => [name, fields[name]]));
}

export function isEmpty(value: unknown): boolean {
  if (Array.isArray(value)) return value.length === 0;
  return value === undefined || (isObject(value) && Object.keys(value).length === 0);
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** Return what a record has under a name of the text, such as `constructor`: only what is its own. */
export function ownOf<T>(record: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}

/** Return the number of a port. Throws an Error. */
export function parsePort(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535) throw new Error(`${quoted(text, 40)} is not a port`);
  return port;
}

/** Return a piece of a text in quotes, for a message. */
export function quoted(text: string, length = 60): string {
  const piece = text.slice(0, length);
  return piece.includes("'") && !piece.includes('"') ? `"${piece}"` : `'${piece}'`;
}

/** Throw an Error that names the line, if reading it fails. */
export function atLine<T>(number: number, read: () => T): T {
  try {
    return read();
  } catch (failed) {
    throw new Error(`line ${number}: ${(failed as Error).message}`);
  }
}

/** Return the words of a line as a POSIX shell splits them; `#` begins a comment if asked for. */
export function shellWords(line: string, comments = false): string[] {
  const words: string[] = [];
  let word: string | null = null;
  for (let at = 0; at < line.length; at++) {
    const character = line[at]!;
    if (character === "#" && comments) break;
    if (/\s/.test(character)) {
      if (word !== null) words.push(word);
      word = null;
    } else if (character === "'" || character === '"') {
      let text = "";
      for (at++; line[at] !== character; at++) {
        if (at >= line.length) throw new Error("unclosed quote");
        const escaped = character === '"' && line[at] === "\\" && /["\\]/.test(line[at + 1] ?? "");
        if (escaped) at++;
        text += line[at];
      }
      word = (word ?? "") + text;
    } else {
      if (character === "\\") at++;
      word = (word ?? "") + (line[at] ?? "");
    }
  }
  return word === null ? words : [...words, word];
}
