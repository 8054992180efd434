/** Targets in a text: what kind of inventory it is, and what it has. As `opsjobs targets import`. */
import { VAULTED } from "./ansible.ts";
import { isInventoryJson, readIni, readJson, readYaml } from "./ansible-files.ts";
import { parseEntries } from "./entries.ts";
import { type FoundTarget, type Inventory, isObject } from "./found.ts";
import { isCsv, isHostsFile, readCsv, readHosts } from "./host-lists.ts";
import { isSshConfig, readSshConfig } from "./ssh-config.ts";

const CONVERT = "Use what this prints: ansible-inventory -i FILE --list";

/** Read a text; its file's name tells some kinds. Throws an Error whose words say what is wrong. */
export async function readInventory(text: string, file = ""): Promise<Inventory> {
  refuseUnread(text, file);
  if (/\.(csv|tsv)$/.test(file)) return readCsv(text);
  const lines = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line && !/^[#;]/.test(line));
  const isYaml = /\.(ya?ml|json)$/.test(file) || looksLikeYaml(lines);
  if (isYaml) return readParsed(await parsed(text));
  if (/\.ini$/.test(file)) return readIni(text);
  if (isSshConfig(lines)) return readSshConfig(text);
  if (isHostsFile(lines)) return readHosts(text);
  if (isCsv(lines)) return readCsv(text);
  const { entries, wrong } = parseEntries(text);
  const isPlain = entries.length > 0 && wrong.length === 0 && !text.includes("[");
  return isPlain ? { found: entries, left: [] } : readIni(text);
}

/** Throw an Error for a file that only Ansible can read. */
function refuseUnread(text: string, file: string): void {
  if (/^[\ufeff\s]*\$ANSIBLE_VAULT/.test(text))
    throw new Error(`it is encrypted with ansible-vault. ${CONVERT} --ask-vault-pass`);
  if (file.endsWith(".toml")) throw new Error(`TOML is not supported. ${CONVERT}`);
  if (text.startsWith("#!/")) throw new Error(`it is a program. ${CONVERT}`);
}

function looksLikeYaml(lines: readonly string[]): boolean {
  const first = lines[0] ?? "";
  return /^(---|\{|- |\[\s*[{\]"])/.test(first) || /^[^[\s]\S*:$|^[\w.-]+:\s/.test(first);
}

async function parsed(text: string): Promise<unknown> {
  const { parse } = await import("yaml");
  const vault = { tag: "!vault", resolve: () => VAULTED };
  try {
    return parse(text, { customTags: [vault], logLevel: "error" });
  } catch (failed) {
    throw new Error(`not valid YAML: ${(failed as Error).message.split("\n")[0]}`);
  }
}

function readParsed(found: unknown): Inventory {
  const listed = isObject(found) ? found["targets"] : found;
  if (Array.isArray(listed)) return { found: listed.map(written), left: [] };
  if (isInventoryJson(found)) return readJson(found);
  return readYaml(found);
}

/** A target that was written as one: its fields are sent as they are. */
function written(value: unknown, index: number): FoundTarget {
  if (!isObject(value)) throw new Error(`entry ${index + 1} is not a target: write name and host`);
  const text = (field: unknown) => (typeof field === "string" ? field : "");
  return {
    name: text(value["name"]),
    host: text(value["host"]),
    credential: text(value["credential"]) || undefined,
    written: value,
  };
}
