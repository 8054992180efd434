/** The icon of the tab: ours, with a dot in the tone of what the page shows. */
import type { Tone } from "./tone.ts";

const PLAIN = document.querySelector<HTMLLinkElement>("link[rel=icon]")?.getAttribute("href") ?? "";
const FILLS: Record<Tone, string> = {
  ok: "#2f9e5b",
  live: "#0970d0",
  wait: "#8c939c",
  hold: "#8047b3",
  warn: "#f7aa28",
  bad: "#d92a2a",
  lost: "#7a1268",
  off: "#676b71",
};

/** Show the icon of a tone; null: the plain one. */
export function showIcon(tone: Tone | null): void {
  const link = document.querySelector<HTMLLinkElement>("link[rel=icon]");
  if (link) link.href = tone === null ? PLAIN : dotted(FILLS[tone]);
}

function dotted(fill: string): string {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#1257b5"/><circle cx="9.500" cy="9.500" r="6" fill="${fill}" stroke="#fff"/></svg>`;
  return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}
