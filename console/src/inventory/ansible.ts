/** What an Ansible inventory means: nested groups, variables, and how each host is reached. */
import {
  type FoundTarget,
  type Inventory,
  parsePort,
  quoted,
  shellWords,
  type Skipped,
  TARGETS_MAX,
  type Variables,
} from "./found.ts";
import { CONNECTIONS as WINDOWS, firstOf, readWinrm, WINDOWS_VARIABLES } from "./windows.ts";

/** Ansible's built-in groups; they do not become groups of opsjobs. */
const BUILT_IN: ReadonlySet<string> = new Set(["all", "ungrouped"]);
const TRANSPORTS: Readonly<Record<string, string>> = {
  ...{ local: "local", winrm: "winrm", psrp: "winrm" },
};
const CONNECTIONS: ReadonlySet<string> = new Set([
  ...["ssh", "smart", "paramiko", "paramiko_ssh", "local", "network_cli", ...WINDOWS],
]);
const HOST = ["ansible_host", "ansible_ssh_host"];
const PORT = ["ansible_port", "ansible_ssh_port"];
const USER = ["ansible_user", "ansible_ssh_user"];
const KEY = ["ansible_ssh_private_key_file", "ansible_private_key_file"];
const ARGUMENTS = ["ansible_ssh_common_args", "ansible_ssh_extra_args"];
const TAKEN: ReadonlySet<string> = new Set([
  ...[...HOST, ...PORT, ...USER, ...KEY, "ansible_connection", ...WINDOWS_VARIABLES],
]);
const SECRET = /^(ansible_(ssh_)?(become_|sudo_|su_)?pass(word)?|.*vault.*)$/;
const JUMP = /(?:-J\s*|-o\s*['"]?ProxyJump[= ]\s*)([^\s'"]+)/;

/** A value that ansible-vault has encrypted. */
export const VAULTED = "!vault …";

interface Group {
  hosts: Set<string>;
  children: Set<string>;
  variables: Variables;
}

/** The whole file: groups, and each host's own variables. */
export class Tree {
  private readonly groups = new Map<string, Group>();
  private readonly hosts = new Map<string, Variables>();

  /** Return the group of this name; make it if it is not there. */
  group(name: string): Group {
    const known = this.groups.get(name);
    if (known) return known;
    const made = { hosts: new Set<string>(), children: new Set<string>(), variables: {} };
    this.groups.set(name, made);
    return made;
  }

  has(host: string): boolean {
    return this.hosts.has(host);
  }

  /** Add a host to a group. Throws an Error if there are too many. */
  add(group: string, host: string, variables: Variables): void {
    if (!this.hosts.has(host) && this.hosts.size >= TARGETS_MAX)
      throw new Error(`the inventory has more than ${TARGETS_MAX} hosts`);
    this.hosts.set(host, { ...this.hosts.get(host), ...variables });
    this.group(group).hosts.add(host);
  }

  /** Return all hosts with the variables of their groups and their own. */
  inventory(): Inventory {
    const parents = new Map<string, string[]>();
    for (const [name, group] of this.groups)
      for (const child of group.children) parents.set(child, [...(parents.get(child) ?? []), name]);
    const above = new Map([...this.groups.keys()].map((name) => [name, ancestors(name, parents)]));
    this.group("all");
    // Ansible puts every host and every group below `all`, even if the file does not.
    const groupsOf = new Map([...this.hosts.keys()].map((host) => [host, new Set(["all"])]));
    for (const [name, group] of this.groups)
      for (const host of group.hosts)
        for (const one of [name, ...(above.get(name) ?? [])]) groupsOf.get(host)!.add(one);
    const depth = (name: string) => (name === "all" ? -1 : (above.get(name)?.size ?? 0));
    const found: FoundTarget[] = [];
    const left: Skipped[] = [];
    for (const [host, own] of this.hosts) {
      // From the outermost group inwards: an inner group overrides an outer one.
      const groups = [...groupsOf.get(host)!].sort(
        (a, b) => depth(a) - depth(b) || (a < b ? -1 : 1),
      );
      const inherited = groups.map((name) => this.groups.get(name)!.variables);
      const variables: Variables = Object.assign({}, ...inherited, own);
      try {
        found.push(
          targetOf(
            host,
            variables,
            groups.filter((name) => !BUILT_IN.has(name)),
          ),
        );
      } catch (failed) {
        left.push({ what: host, reason: (failed as Error).message, target: true });
      }
    }
    const made = withJumps(found, left);
    return { found: made, left: [...left, ...unsupported(found)] };
  }
}

function ancestors(name: string, parents: ReadonlyMap<string, readonly string[]>): Set<string> {
  const above = new Set<string>();
  const waiting = [name];
  while (waiting.length > 0) {
    for (const parent of parents.get(waiting.pop()!) ?? []) {
      if (parent === name) throw new Error(`the group ${quoted(name)} contains itself`);
      if (above.has(parent)) continue;
      above.add(parent);
      waiting.push(parent);
    }
  }
  return above;
}

/** Return a host as a target. Throws an Error for one that opsjobs cannot reach. */
function targetOf(name: string, variables: Variables, groups: string[]): FoundTarget {
  const connection = (variables["ansible_connection"] ?? "ssh").split(".").at(-1)!;
  if (!CONNECTIONS.has(connection))
    throw new Error(
      `its connection is ${quoted(connection)}: only ssh, winrm, psrp and local are supported`,
    );
  const isWindows = WINDOWS.has(connection);
  const read = {
    host: firstOf(variables, ...HOST),
    port: firstOf(variables, ...PORT),
    user: firstOf(variables, ...USER),
    key: firstOf(variables, ...KEY),
  };
  checkPlain(read);
  let [host, port] = [read.host ?? name, read.port];
  const apart = read.host === undefined ? /^\[?([^[\]]+?)\]?:(\d+)$/.exec(name) : null;
  const hasPort = apart !== null && !apart[1]!.includes(":");
  if (hasPort) [host, port] = [apart[1]!, port ?? apart[2]!];
  const number = port === undefined ? undefined : parsePort(port);
  const jump = JUMP.exec(ARGUMENTS.map((word) => variables[word] ?? "").join(" "));
  return {
    name: hasPort ? name.split(":")[0]! : name,
    host,
    port: number,
    user: read.user,
    key: isWindows ? undefined : read.key,
    groups,
    jump: jump && !isWindows ? jump[1] : undefined,
    transport: TRANSPORTS[connection],
    platform: connection === "network_cli" ? "network" : undefined,
    winrm: isWindows ? readWinrm(variables, number) : undefined,
    variables: Object.fromEntries(Object.entries(variables).filter(([one]) => !TAKEN.has(one))),
  };
}

/** Throw an Error if a value of these is encrypted or computed. */
function checkPlain(read: Readonly<Record<string, string | undefined>>): void {
  const given = Object.entries(read).filter(([, value]) => value !== undefined);
  const vaulted = given.find(([, value]) => value!.startsWith("!vault"));
  if (vaulted)
    throw new Error(
      `its ${vaulted[0]} is encrypted with ansible-vault: write it in plain text, or add the ` +
        "target by hand",
    );
  const computed = given.find(([, value]) => value!.includes("{{"));
  if (computed)
    throw new Error(
      `its ${computed[0]} is a template (${quoted(computed[1]!)}): write its value, or add ` +
        "the target by hand",
    );
}

/** Replace jump hosts by names of targets; note those that are not in the inventory. */
function withJumps(found: readonly FoundTarget[], left: Skipped[]): FoundTarget[] {
  const names = new Map([
    ...found.map((one) => [one.name, one.name] as const),
    ...found.map((one) => [one.host, one.name] as const),
  ]);
  return found.map((one) => {
    if (one.jump === undefined) return one;
    const jump = one.jump.split("@").at(-1)!.split(":")[0]!;
    if (!names.has(jump))
      left.push({
        what: `${one.name}: jump host ${jump}`,
        reason: "it is not a host of this inventory: add it as a target, and set it with --jump",
        target: false,
      });
    // Variables of all hosts name the jump host for itself, too.
    const through = names.get(jump);
    return { ...one, jump: through === one.name ? undefined : through };
  });
}

/** Return each variable of a connection that is not taken over, once. */
function unsupported(found: readonly FoundTarget[]): Skipped[] {
  const users = new Map<string, number>();
  for (const one of found)
    for (const [name, value] of Object.entries(one.variables ?? {}))
      if (name.startsWith("ansible_") && !(ARGUMENTS.includes(name) && isJumpOnly(value)))
        users.set(name, (users.get(name) ?? 0) + 1);
  return [...users]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, count]) => ({
      what: `${name} (of ${count} host${count === 1 ? "" : "s"})`,
      reason: SECRET.test(name)
        ? "secrets are not imported: use opsjobs credentials add"
        : "it is not supported",
      target: false,
    }));
}

function isJumpOnly(args: string): boolean {
  try {
    return shellWords(args.replaceAll(new RegExp(JUMP, "g"), "")).length === 0;
  } catch {
    return false;
  }
}
