/** Targets in a text: YAML or JSON of targets, an Ansible inventory (INI or YAML), a list of hosts. */

import { parseEntries, type TargetEntry } from "./entries.ts";

export type Entry = Record<string, unknown> & { name?: unknown };

export interface Inventory {
  targets: readonly Entry[];
  /** What is not taken over, in words. */
  left: readonly string[];
}

type Variables = Record<string, unknown>;
interface Group {
  hosts: Set<string>;
  children: Set<string>;
  variables: Variables;
}

const RANGE = /\[([0-9]+|[a-zA-Z]):([0-9]+|[a-zA-Z])(?::([0-9]+))?\]/;
const EXPANDED_MAX = 10_000;
const NO_GROUPS = new Set(["all", "ungrouped"]);

/** Read a text. Throws an Error whose words say what is wrong with it. */
export async function readInventory(text: string): Promise<Inventory> {
  if (!looksLikeYaml(text)) {
    const { entries, wrong } = parseEntries(text);
    const isPlain = entries.length > 0 && wrong.length === 0 && !text.includes("[");
    return isPlain ? { targets: entries.map(trimmed), left: [] } : readIni(text).inventory();
  }
  const { parse } = await import("yaml");
  const found: unknown = parse(text);
  if (Array.isArray(found)) return { targets: found.map(entryOf), left: [] };
  if (!isObject(found)) throw new Error("It is neither a list of targets nor an inventory.");
  const listed = found["targets"];
  if (Array.isArray(listed)) return { targets: listed.map(entryOf), left: [] };
  const tree = new Tree();
  for (const [name, group] of Object.entries(found)) readGroup(tree, name, group);
  return tree.inventory();
}

/** Without labels that nobody wrote. */
function trimmed({ labels, ...entry }: TargetEntry): Entry {
  return { ...entry, ...(Object.keys(labels).length && { labels }) };
}

function looksLikeYaml(text: string): boolean {
  if (/^\s*(\{|\[\s*[{\]"])/.test(text)) return true;
  return !/^\[[^\]]+\]\s*$/m.test(text) && /^\s*(- |[\w.-]+:(\s|$))/m.test(text);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function entryOf(value: unknown, index: number): Entry {
  if (!isObject(value)) throw new Error(`Entry ${index + 1} is not a target: write name and host.`);
  return value;
}

/** Groups of hosts with their variables. */
class Tree {
  private readonly groups = new Map<string, Group>();
  private readonly variables = new Map<string, Variables>();

  group(name: string): Group {
    const made = { hosts: new Set<string>(), children: new Set<string>(), variables: {} };
    if (!this.groups.has(name)) this.groups.set(name, made);
    return this.groups.get(name)!;
  }

  /** Add hosts by a name with ranges, such as web[01:20]. */
  add(group: string, pattern: string, variables: Variables): void {
    for (const host of expanded(pattern)) {
      this.group(group).hosts.add(host);
      this.variables.set(host, { ...this.variables.get(host), ...variables });
      if (this.variables.size > EXPANDED_MAX)
        throw new Error(`It has more than ${EXPANDED_MAX.toLocaleString("en")} hosts.`);
    }
  }

  inventory(): Inventory {
    const left = new Map<string, number>();
    const targets = [...this.variables].map(([host, own]) => {
      const groups = this.groupsOf(host);
      const variables = Object.assign({}, ...groups.map((name) => this.group(name).variables), own);
      for (const name of Object.keys(variables))
        if (!TAKEN.has(name)) left.set(name, (left.get(name) ?? 0) + 1);
      return targetOf(host, variables, groups);
    });
    const words = [...left].map(([name, count]) => `${name} (${count.toLocaleString("en")})`);
    return { targets, left: words };
  }

  /** The groups of a host: those that hold others come first, so that the nearest decides. */
  private groupsOf(host: string): string[] {
    const found = new Set<string>(this.groups.has("all") ? ["all"] : []);
    const visit = (name: string) => {
      if (found.has(name)) return;
      found.add(name);
      for (const [parent, group] of this.groups) if (group.children.has(name)) visit(parent);
    };
    for (const [name, group] of this.groups) if (group.hosts.has(host)) visit(name);
    const depth = (name: string, seen: readonly string[] = []): number => {
      if (name === "all" || seen.includes(name)) return 0;
      const parents = [...this.groups].filter(([, group]) => group.children.has(name));
      return 1 + Math.max(0, ...parents.map(([parent]) => depth(parent, [...seen, name])));
    };
    return [...found].sort((a, b) => depth(a) - depth(b));
  }
}

const TAKEN = new Set(["ansible_host", "ansible_port", "ansible_connection", "ansible_ssh_host"]);

function targetOf(name: string, variables: Variables, groups: readonly string[]): Entry {
  const isWindows = String(variables["ansible_connection"] ?? "").match(/^(winrm|psrp)$/) !== null;
  const port = Number(variables["ansible_port"]);
  const named = groups.filter((group) => !NO_GROUPS.has(group));
  return {
    name,
    host: String(variables["ansible_host"] ?? variables["ansible_ssh_host"] ?? name),
    ...(isWindows && { transport: "winrm" }),
    ...(port && { port }),
    ...(named.length && { groups: named }),
  };
}

function readGroup(tree: Tree, name: string, found: unknown): void {
  if (found === null) return void tree.group(name);
  if (!isObject(found)) throw new Error(`The group ${name} is neither hosts nor groups.`);
  const { hosts, children, vars } = found;
  for (const [host, variables] of Object.entries(isObject(hosts) ? hosts : {}))
    tree.add(name, host, isObject(variables) ? variables : {});
  for (const [child, group] of Object.entries(isObject(children) ? children : {})) {
    tree.group(name).children.add(child);
    readGroup(tree, child, group);
  }
  if (isObject(vars)) Object.assign(tree.group(name).variables, vars);
}

function readIni(text: string): Tree {
  const tree = new Tree();
  let section = "ungrouped";
  let kind: string | undefined;
  for (const raw of text.split(/\r?\n/)) {
    const line = raw.replace(/(^|\s)[#;].*$/, "").trim();
    if (!line) continue;
    const heading = /^\[([^\]:]+)(?::(\w+))?\]$/.exec(line);
    if (heading) {
      [section, kind] = [heading[1]!.trim(), heading[2]];
      tree.group(section);
    } else if (kind === "children") tree.group(section).children.add(line);
    else if (kind === "vars") Object.assign(tree.group(section).variables, variablesOf([line]));
    else {
      const [pattern, ...rest] = line.match(/(?:[^\s"']|"[^"]*"|'[^']*')+/g) ?? [line];
      tree.add(section, pattern!, variablesOf(rest));
    }
  }
  return tree;
}

function variablesOf(words: readonly string[]): Variables {
  const pairs = words.map((word) => {
    const [name, ...value] = word.split("=");
    return [
      name!.trim(),
      value
        .join("=")
        .trim()
        .replace(/^(["'])(.*)\1$/, "$2"),
    ];
  });
  return Object.fromEntries(pairs);
}

/** Return the names that a name with ranges stands for: web[01:03], db-[a:c]. */
export function expanded(pattern: string): string[] {
  const found = RANGE.exec(pattern);
  if (!found) return [pattern];
  const [whole, from, to, step] = found as unknown as [string, string, string, string | undefined];
  const isNumber = /^\d/.test(from) && /^\d/.test(to);
  const code = (text: string) => (isNumber ? Number(text) : text.charCodeAt(0));
  const names: string[] = [];
  for (let at = code(from); at <= code(to); at += Math.max(1, Number(step ?? 1))) {
    if (names.length >= EXPANDED_MAX) throw new Error(`${pattern} stands for too many hosts.`);
    const one = isNumber ? String(at).padStart(from.length, "0") : String.fromCharCode(at);
    names.push(...expanded(pattern.replace(whole, one)));
  }
  if (names.length === 0) throw new Error(`${pattern} has a range without any host.`);
  return names;
}
