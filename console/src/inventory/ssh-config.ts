/** An OpenSSH client configuration: each Host that is not a pattern becomes a target. */
import {
  atLine,
  type FoundTarget,
  type Inventory,
  parsePort,
  quoted,
  shellWords,
  type Skipped,
} from "./found.ts";

const LINE = /^([A-Za-z][A-Za-z0-9]*)(?:\s*=\s*|\s+)(.*)$/;
const REPORTED: ReadonlySet<string> = new Set([
  ...["certificatefile", "forwardagent", "localforward", "remoteforward", "remotecommand"],
]);

interface Block {
  patterns: string[];
  options: Record<string, string>;
}

/** True if these lines are of an ssh_config. */
export function isSshConfig(lines: readonly string[]): boolean {
  return lines.some((line) => /^host(\s+|\s*=\s*)\S/i.test(line));
}

/** Throws an Error with the line. */
export function readSshConfig(text: string): Inventory {
  const left: Skipped[] = [];
  const blocks = blocksOf(text, left);
  const all = [...new Set(blocks.flatMap((block) => block.patterns))];
  for (const what of all.filter(isPattern))
    left.push({
      what,
      reason: "a pattern is not a host; its options apply to the hosts that it matches",
      target: false,
    });
  const found = new Map<string, FoundTarget>();
  for (const name of all.filter((one) => !isPattern(one)))
    try {
      found.set(name, targetOf(name, blocks));
    } catch (failed) {
      left.push({ what: name, reason: (failed as Error).message, target: true });
    }
  const unsupported = unsupportedOf(blocks);
  left.push(...unsupported);
  return { found: withJumps(found, blocks, left), left };
}

function blocksOf(text: string, left: Skipped[]): Block[] {
  const blocks: Block[] = [{ patterns: ["*"], options: {} }];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const stripped = line.trim();
    if (!stripped || stripped.startsWith("#")) continue;
    const number = index + 1;
    const found = LINE.exec(stripped);
    if (!found)
      throw new Error(`line ${number}: ${quoted(stripped)} is not an option with a value`);
    const [option, value] = [found[1]!.toLowerCase(), found[2]!];
    const words = () => atLine(number, () => shellWords(value));
    const note = (reason: string) =>
      left.push({
        what: `line ${number}: ${found[1]} ${value.slice(0, 60)}`,
        reason,
        target: false,
      });
    if (option === "host") blocks.push({ patterns: words(), options: {} });
    else if (option === "match") {
      blocks.push({ patterns: [], options: {} });
      note("Match is not supported: the whole block is ignored");
    } else if (option === "include") note("included files are not read: import them too");
    // The first one is used, as by ssh.
    else blocks.at(-1)!.options[option] ??= words().join(" ");
  }
  return blocks;
}

const isPattern = (name: string): boolean => /^!|[*?]/.test(name);

function matches(name: string, pattern: string): boolean {
  const plain = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${plain.replaceAll("*", ".*").replaceAll("?", ".")}$`).test(name);
}

function applies({ patterns }: Block, name: string): boolean {
  const isExcluded = patterns.some((one) => one.startsWith("!") && matches(name, one.slice(1)));
  return !isExcluded && patterns.some((one) => !one.startsWith("!") && matches(name, one));
}

function targetOf(name: string, blocks: readonly Block[]): FoundTarget {
  const options: Record<string, string> = {};
  for (const block of blocks)
    if (applies(block, name))
      for (const [option, value] of Object.entries(block.options)) options[option] ??= value;
  if ((options["proxycommand"] ?? "none").toLowerCase() !== "none")
    throw new Error("it uses a ProxyCommand: give it a ProxyJump, or add it by hand");
  const host = (options["hostname"] ?? name).replaceAll("%h", name).replaceAll("%%", "%");
  const jump = options["proxyjump"] ?? "none";
  return {
    name,
    host,
    port: options["port"] === undefined ? undefined : parsePort(options["port"]),
    user: options["user"],
    key: options["identityfile"],
    jump: jump.toLowerCase() === "none" ? undefined : jump,
  };
}

/** Resolve jump hosts to targets; make those that only a ProxyJump names. */
function withJumps(
  found: Map<string, FoundTarget>,
  blocks: readonly Block[],
  left: Skipped[],
): FoundTarget[] {
  for (const { name, jump } of [...found.values()]) {
    if (jump === undefined) continue;
    const set = (some: Partial<FoundTarget>, of = name) =>
      found.set(of, { ...found.get(of)!, ...some });
    const hops = jump.split(",").map((hop) => hop.trim());
    if (hops.length > 1 && hops.some((hop) => !found.has(hopName(hop)))) {
      left.push({
        what: `${name}: ProxyJump ${jump}`,
        reason: "a jump over several hosts: give each of them its own Host entry",
        target: false,
      });
      set({ jump: undefined });
      continue;
    }
    const last = hopName(hops.at(-1)!);
    if (!found.has(last)) found.set(last, jumpHost(hops.at(-1)!, blocks));
    set({ jump: last });
    for (const [at, hop] of hops.entries())
      if (at > 0 && found.get(hopName(hop))!.jump === undefined)
        set({ jump: hopName(hops[at - 1]!) }, hopName(hop));
  }
  return [...found.values()];
}

/** Return the host of a jump: `deploy@gate.example.org:2222` is `gate.example.org`. */
function hopName(hop: string): string {
  return hop
    .slice(hop.lastIndexOf("@") + 1)
    .replace(/:\d+$/, "")
    .replace(/^[[\]]+|[[\]]+$/g, "");
}

function jumpHost(hop: string, blocks: readonly Block[]): FoundTarget {
  const at = hop.lastIndexOf("@");
  const port = /:(\d+)$/.exec(hop.slice(at + 1));
  const made = targetOf(hopName(hop), blocks);
  return {
    ...made,
    jump: undefined,
    user: hop.slice(0, Math.max(0, at)) || made.user,
    port: port ? parsePort(port[1]!) : made.port,
  };
}

function unsupportedOf(blocks: readonly Block[]): Skipped[] {
  const places = new Map<string, string>();
  for (const { patterns, options } of blocks)
    for (const option of Object.keys(options))
      if (REPORTED.has(option)) places.set(option, patterns.join(", ").slice(0, 60));
  return [...places].map(([option, place]) => ({
    what: `${option} (Host ${place})`,
    reason: "it is not supported",
    target: false,
  }));
}
