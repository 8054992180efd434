/** Copy buttons: a text, or a thing as link, command, curl and JSON. */
import { commandLine } from "./command-line.ts";
import { Icon } from "./icon.tsx";
import { Menu, type MenuItem } from "./menu.tsx";
import { toast } from "./toast.tsx";

/** Copy a text and say so. */
export async function copy(text: string, what: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    toast(`Copied: ${what}`);
  } catch {
    toast(`The browser refuses to copy. Copy it by hand: ${text}`, "bad");
  }
}

export function CopyButton({ text, what }: { text: string; what: string }) {
  return (
    <button
      type="button"
      class="button small plain"
      aria-label={`Copy ${what}`}
      title={`Copy ${what}`}
      onClick={() => copy(text, what)}
    >
      <Icon name="copy" />
    </button>
  );
}

export interface Copyable {
  /** The page's own URL if there is none. */
  link?: string;
  /** The command that does or shows the same. */
  command?: string;
  curl?: string;
  json?: unknown;
}

export function copyItems(of: Copyable): MenuItem[] {
  const items: MenuItem[] = [
    { label: "Link", onChoose: () => copy(of.link ?? location.href, "link") },
  ];
  const { command, curl, json } = of;
  if (command) items.push({ label: "Command", onChoose: () => copy(command, "command") });
  if (curl) items.push({ label: "curl", onChoose: () => copy(curl, "curl") });
  if (json !== undefined)
    items.push({
      label: "JSON",
      onChoose: () => copy(JSON.stringify(json, null, 2), "JSON"),
    });
  return items;
}

/** The command that does what a dialog is about to do. */
export function AsCommand({ words }: { words: readonly string[] }) {
  const line = commandLine(...words);
  return (
    <p class="as-command small dim">
      <code class="cut">{line}</code>
      <CopyButton text={line} what="command" />
    </p>
  );
}

/** The menu Copy ▾ of a page. */
export function CopyMenu({ of }: { of: Copyable }) {
  return <Menu label="Copy" items={copyItems(of)} shortcut="copy" />;
}
