/** Ansible inventories as INI, YAML or JSON, with ranges of hosts. */
import { Tree, VAULTED } from "./ansible.ts";
import { atLine, type Inventory, isObject, quoted, shellWords, type Variables } from "./found.ts";

const DEPTH_MAX = 20;
const NODES_MAX = 100_000;
const HOSTS_MAX = 10_000;
const SECTION = /^\[([^[\]:\s]+)(?::(children|vars))?\]$/;
const RANGE = /\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\]/g;
const GROUP_KEYS: ReadonlySet<string> = new Set(["hosts", "children", "vars"]);
const META = "_meta";

/** Throws an Error with the line. */
export function readIni(text: string): Inventory {
  const tree = new Tree();
  let [section, kind]: [string, string | undefined] = ["ungrouped", undefined];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const stripped = line.trim();
    if (!stripped || stripped.startsWith("#") || stripped.startsWith(";")) continue;
    atLine(index + 1, () => {
      const heading = SECTION.exec(withoutComment(stripped));
      if (heading) {
        [section, kind] = [heading[1]!, heading[2]];
        tree.group(section);
      } else readLine(tree, section, kind, stripped);
    });
  }
  return tree.inventory();
}

function readLine(tree: Tree, section: string, kind: string | undefined, line: string): void {
  if (kind === "children") {
    const child = withoutComment(line);
    tree.group(child);
    tree.group(section).children.add(child);
  } else if (kind === "vars") {
    const [name, value] = pair(line, `${quoted(line)} is not a variable: write NAME=VALUE`);
    tree.group(section).variables[name.trim()] = unquoted(value.trim());
  } else {
    const [pattern, ...rest] = shellWords(line, true);
    const variables = rest.map((word) =>
      pair(word, `${quoted(word)} is neither a host nor NAME=VALUE`),
    );
    for (const host of expanded(pattern ?? ""))
      tree.add(section, host, Object.fromEntries(variables));
  }
}

function pair(text: string, fault: string): [string, string] {
  const at = text.indexOf("=");
  if (at < 0) throw new Error(fault);
  return [text.slice(0, at), text.slice(at + 1)];
}

function unquoted(value: string): string {
  return /^(["']).*\1$/s.test(value) && value.length > 1
    ? value.slice(1, -1)
    : withoutComment(value);
}

const withoutComment = (line: string): string => line.split(/\s+[#;]/, 1)[0]!.trim();

/** Throws an Error if it is no inventory. */
export function readYaml(found: unknown): Inventory {
  if (!isObject(found) || Object.keys(found).length === 0)
    throw new Error("the inventory has no groups: it must begin with `all:`");
  const reader = new YamlReader();
  for (const [name, body] of Object.entries(found)) reader.group(name, body, 0);
  return reader.tree.inventory();
}

/** Walks the groups; counts the nodes, because aliases make a small file a large one. */
class YamlReader {
  readonly tree = new Tree();
  private seen = 0;

  group(name: string, body: unknown, depth: number): void {
    if (depth > DEPTH_MAX) throw new Error(`groups are nested more than ${DEPTH_MAX} deep`);
    const group = this.tree.group(name);
    const parts = this.mapping(body, `the group '${name}'`);
    const unknown = Object.keys(parts).find((key) => !GROUP_KEYS.has(key));
    if (unknown !== undefined)
      throw new Error(
        `the group '${name}' has the key '${unknown}': only hosts, children and vars are allowed`,
      );
    for (const [host, own] of Object.entries(
      this.mapping(parts["hosts"], `the hosts of '${name}'`),
    ))
      for (const one of expanded(host))
        this.tree.add(name, one, this.variables(own, `the host '${host}'`));
    Object.assign(group.variables, this.variables(parts["vars"], `the vars of '${name}'`));
    for (const [child, inner] of Object.entries(
      this.mapping(parts["children"], `the children of '${name}'`),
    )) {
      group.children.add(child);
      this.group(child, inner, depth + 1);
    }
  }

  private mapping(found: unknown, what: string): Record<string, unknown> {
    if (found === null || found === undefined) return {};
    const all = typeof found === "string" ? { [found]: null } : found;
    if (!isObject(all)) throw new Error(`${what} are not a mapping`);
    this.seen += Object.keys(all).length;
    if (this.seen > NODES_MAX) throw new Error(`the inventory has more than ${NODES_MAX} entries`);
    return all;
  }

  private variables(found: unknown, what: string): Variables {
    const all = Object.entries(this.mapping(found, what));
    return Object.fromEntries(all.map(([name, value]) => [name, textOf(value)]));
  }
}

/** Return the value of a variable as text: strings as they are, the rest as JSON. */
function textOf(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  return typeof value === "object" ? spaced(value).slice(0, 2_000) : String(value);
}

/** JSON with a blank after each comma and colon, as Ansible's own tools write it. */
function spaced(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(spaced).join(", ")}]`;
  if (!isObject(value)) return JSON.stringify(value ?? null);
  const all = Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${spaced(one)}`);
  return `{${all.join(", ")}}`;
}

/** True for what `ansible-inventory --list` prints: it has `_meta`, or a group with a list of hosts. */
export function isInventoryJson(found: unknown): found is Record<string, unknown> {
  if (!isObject(found)) return false;
  const hasLists = (body: unknown) =>
    isObject(body) && (Array.isArray(body["hosts"]) || Array.isArray(body["children"]));
  return (
    META in found || Object.values(found).some((body) => Array.isArray(body) || hasLists(body))
  );
}

/** Throws an Error if a part has an unexpected type. */
export function readJson(found: Record<string, unknown>): Inventory {
  const tree = new Tree();
  const meta = objectOf(found[META], `'${META}'`);
  for (const [name, body] of Object.entries(found)) {
    if (name === META) continue;
    // Before Ansible 1.3 a group was the list of its hosts; old scripts still print that.
    const parts = Array.isArray(body) ? { hosts: body } : objectOf(body, `the group '${name}'`);
    const group = tree.group(name);
    for (const host of namesOf(parts["hosts"], `the hosts of '${name}'`)) tree.add(name, host, {});
    for (const child of namesOf(parts["children"], `the children of '${name}'`)) {
      tree.group(child);
      group.children.add(child);
    }
    Object.assign(group.variables, textsOf(parts["vars"], `the vars of '${name}'`));
  }
  const hosts = objectOf(meta["hostvars"], `the hostvars of '${META}'`);
  for (const [host, own] of Object.entries(hosts)) {
    const variables = textsOf(own, `the variables of '${host}'`);
    tree.add(tree.has(host) ? "all" : "ungrouped", host, variables);
  }
  return tree.inventory();
}

function objectOf(found: unknown, what: string): Record<string, unknown> {
  if (found === null || found === undefined) return {};
  if (!isObject(found)) throw new Error(`${what} is not an object`);
  return found;
}

function namesOf(found: unknown, what: string): string[] {
  if (found === null || found === undefined) return [];
  const isList = Array.isArray(found) && found.every((name) => typeof name === "string");
  if (!isList) throw new Error(`${what} are not a list of names`);
  return found;
}

function textsOf(found: unknown, what: string): Variables {
  const all = Object.entries(objectOf(found, what));
  const isVaulted = (value: unknown) => isObject(value) && "__ansible_vault" in value;
  return Object.fromEntries(
    all.map(([name, value]) => [name, isVaulted(value) ? VAULTED : textOf(value)]),
  );
}

/** Return the names that a name with ranges stands for: web[01:03], db-[a:c]. Throws an Error. */
export function expanded(pattern: string): string[] {
  const parts: string[][] = [];
  let end = 0;
  for (const found of pattern.matchAll(RANGE)) {
    parts.push([pattern.slice(end, found.index)], valuesOf(found));
    end = found.index + found[0].length;
  }
  const rest = pattern.slice(end);
  const plain =
    parts
      .filter((_, at) => at % 2 === 0)
      .flat()
      .join("") + rest;
  if (plain.includes("[") && !/^\[[0-9A-Fa-f:.]+\](:\d+)?$/.test(pattern))
    throw new Error(`${quoted(pattern)} has a range that cannot be read: write [01:20] or [a:f]`);
  const count = parts.reduce((product, values) => product * values.length, 1);
  if (count > HOSTS_MAX)
    throw new Error(`${quoted(pattern)} stands for ${count} hosts, the limit is ${HOSTS_MAX}`);
  return [...parts, [rest]].reduce(
    (names, values) => names.flatMap((name) => values.map((value) => name + value)),
    [""],
  );
}

function valuesOf([whole, from, to, by]: RegExpMatchArray): string[] {
  const [first, last, step] = [from!, to!, Number(by ?? 1)];
  const isNumber = (text: string) => /^\d/.test(text);
  const isUpper = (text: string) => text === text.toUpperCase();
  const wrong = new Error(`'${whole}' is not a range`);
  if (isNumber(first) !== isNumber(last) || step === 0) throw wrong;
  if (!isNumber(first) && isUpper(first) !== isUpper(last)) throw wrong;
  const code = (text: string) => (isNumber(text) ? Number(text) : text.charCodeAt(0));
  if (code(last) < code(first) || last.length > 9) throw wrong;
  const count = Math.floor((code(last) - code(first)) / step) + 1;
  if (count > HOSTS_MAX) throw new Error(`'${whole}' stands for more than ${HOSTS_MAX} hosts`);
  const width = first.startsWith("0") ? first.length : 0;
  return Array.from({ length: count }, (_, at) => {
    const value = code(first) + at * step;
    return isNumber(first) ? String(value).padStart(width, "0") : String.fromCharCode(value);
  });
}
