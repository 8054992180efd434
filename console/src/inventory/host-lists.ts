/** Lists of hosts: CSV tables with a header line, and files such as /etc/hosts. */
import {
  type FoundTarget,
  type Inventory,
  ownOf,
  parsePort,
  quoted,
  type Skipped,
} from "./found.ts";

const SAME: Readonly<Record<string, string>> = {
  ...{ hostname: "host", address: "host", ip: "host", username: "user", group: "groups" },
  tags: "labels",
};
const COLUMNS: ReadonlySet<string> = new Set([
  ...["name", "host", "port", "user", "key", "credential", "groups", "labels", "jump"],
  ...["transport", "platform", "zone", "slots"],
]);
const LABEL = "label:";

type Cells = Readonly<Record<string, string>>;

/** True if these lines are a table. */
export function isCsv(lines: readonly string[]): boolean {
  const first = lines[0] ?? "";
  const heading = first.split(separatorOf(first)).map((word) => word.trim().toLowerCase());
  return heading.length > 1 && heading.some((word) => ["name", "host", "hostname"].includes(word));
}

/** Throws an Error for one without a column `name` or `host`. */
export function readCsv(text: string): Inventory {
  const plain = text.replace(/^\ufeff/, "");
  const rows = rowsOf(plain, separatorOf(plain.split("\n", 1)[0]!));
  const heading = (rows.shift()?.cells ?? []).map(columnName);
  if (!heading.includes("name") && !heading.includes("host"))
    throw new Error("the header has no column `name` or `host`");
  const twice = heading.find((word, at) => heading.indexOf(word) < at);
  if (twice !== undefined) throw new Error(`the column '${twice}' appears twice`);
  const found = new Map<string, FoundTarget>();
  const left: Skipped[] = heading
    .filter((one) => !COLUMNS.has(one) && !one.startsWith(LABEL))
    .map((one) => ({ what: `column ${one}`, reason: "unknown column", target: false }));
  for (const { cells, line } of rows) {
    const values = heading.map((name, at) => [name, (cells[at] ?? "").trim()] as const);
    if (values.every(([, value]) => !value)) continue;
    const row: Cells = Object.fromEntries(values);
    const name = row["name"] || row["host"] || "";
    try {
      if (!name) throw new Error("it has neither a name nor a host");
      if (found.has(name)) throw new Error("the name appears twice");
      found.set(name, targetOf(name, row));
    } catch (failed) {
      const what = `line ${line}: ${name || "(no name)"}`;
      left.push({ what, reason: (failed as Error).message, target: true });
    }
  }
  return { found: [...found.values()], left };
}

function targetOf(name: string, row: Cells): FoundTarget {
  const slots = row["slots"];
  if (slots && !/^\d+$/.test(slots)) throw new Error(`slots: '${slots}' is not a number`);
  const own = Object.entries(row).filter(([column, value]) => column.startsWith(LABEL) && value);
  return {
    name,
    host: row["host"] || name,
    port: row["port"] ? parsePort(row["port"]) : undefined,
    user: row["user"] || undefined,
    key: row["key"] || undefined,
    credential: row["credential"] || undefined,
    groups: valuesOf(row["groups"]),
    labels: {
      ...Object.fromEntries(valuesOf(row["labels"]).map(labelOf)),
      ...Object.fromEntries(own.map(([column, value]) => [column.slice(LABEL.length), value])),
    },
    jump: row["jump"] || undefined,
    transport: row["transport"] || undefined,
    platform: row["platform"] || undefined,
    zone: row["zone"] || undefined,
    slots: slots ? Number(slots) : undefined,
  };
}

/** Return the name of a column; that of a label is kept as it is. */
function columnName(word: string): string {
  const name = word.trim();
  const lower = name.toLowerCase();
  if (lower.startsWith(LABEL)) return LABEL + name.slice(LABEL.length).trim();
  return ownOf(SAME, lower) ?? lower;
}

function labelOf(word: string): [string, string] {
  const at = word.indexOf("=");
  if (at < 1) throw new Error(`the label '${word}' is not KEY=VALUE`);
  return [word.slice(0, at).trim(), word.slice(at + 1).trim()];
}

/** Return the values of a cell; separated by spaces, semicolons, bars or commas. */
const valuesOf = (cell: string | undefined): string[] =>
  (cell ?? "").split(/[\s;|,]+/).filter(Boolean);

function separatorOf(line: string): string {
  const count = (separator: string) => line.split(separator).length;
  return [",", ";", "\t"].reduce((best, one) => (count(one) > count(best) ? one : best));
}

interface Row {
  cells: string[];
  /** The line on which it ends. */
  line: number;
}

/** Return the rows of a table; a cell in quotes may have separators, line ends and "" in it. */
function rowsOf(text: string, separator: string): Row[] {
  const rows: Row[] = [];
  let cells: string[] = [];
  let cell = "";
  let line = 1;
  let quoted = false;
  let closed = false;
  const end = () => {
    rows.push({ cells: [...cells, cell], line });
    [cells, cell, closed] = [[], "", false];
  };
  for (let at = 0; at < text.length; at++) {
    const character = text[at]!;
    if (quoted) {
      if (character === "\n") line++;
      if (character !== '"') cell += character;
      else if (text[at + 1] === '"') cell += text[at++];
      else [quoted, closed] = [false, true];
    } else if (character === separator) {
      cells.push(cell);
      [cell, closed] = ["", false];
    } else if (character === "\n") {
      end();
      line++;
    } else if (character === '"' && cell === "") quoted = true;
    else if (character !== "\r") {
      if (closed) throw new Error(`line ${line}: a text goes on behind its quote`);
      cell += character;
    }
  }
  if (quoted) throw new Error(`line ${line}: unclosed quote`);
  if (cell || cells.length > 0) end();
  return rows;
}

/** True if these lines are of a hosts file. */
export function isHostsFile(lines: readonly string[]): boolean {
  const words = lines.map((line) => line.split(/\s+/));
  return (
    words.length > 0 &&
    words.every(
      ([first, second]) => isAddress(first!) && second !== undefined && !second.includes("="),
    )
  );
}

/** Throws an Error with the line. If a name appears twice, the first entry is used. */
export function readHosts(text: string): Inventory {
  const found = new Map<string, FoundTarget>();
  const left: Skipped[] = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const [address, name] = line.split("#", 1)[0]!.trim().split(/\s+/);
    if (!address) continue;
    if (!isAddress(address) || name === undefined)
      throw new Error(
        `line ${index + 1}: ${quoted(line.trim())} is not an address followed by names`,
      );
    const known = found.get(name);
    const reason = refusal(address) ?? (known && `the name already has the address ${known.host}`);
    if (reason) left.push({ what: `${address} ${name}`, reason, target: true });
    else found.set(name, { name, host: address });
  }
  return { found: [...found.values()], left };
}

export function isAddress(word: string): boolean {
  const plain = word.split("%", 1)[0]!;
  const parts = plain.split(".");
  const isV4 = parts.length === 4 && parts.every((one) => /^\d{1,3}$/.test(one) && +one < 256);
  return isV4 || (plain.includes(":") && /^[0-9A-Fa-f:.]{2,}$/.test(plain));
}

function refusal(address: string): string | null {
  const plain = address.split("%", 1)[0]!.toLowerCase();
  if (/^(127\.|0\.0\.0\.0$|::1?$)/.test(plain)) return "it is the machine itself";
  if (/^(22[4-9]|23\d)\.|^255\.255\.255\.255$|^ff/.test(plain))
    return "it is a multicast or broadcast address";
  return /^169\.254\.|^fe[89ab]/.test(plain) ? "it is a link-local address" : null;
}
