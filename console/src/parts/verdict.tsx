/** A verdict of the safety check, or the severity of one of its findings. */
import { Icon } from "./icon.tsx";
import type { Tone } from "./tone.ts";

const TONES: Record<string, Tone> = {
  allow: "ok",
  warn: "warn",
  needs_approval: "hold",
  block: "bad",
};

export function toneOfVerdict(verdict: string): Tone {
  return TONES[verdict] ?? "wait";
}

export function Verdict({ verdict }: { verdict: string }) {
  const tone = toneOfVerdict(verdict);
  return (
    <span class={`status tone ${tone}`}>
      <Icon name={tone} />
      {verdict === "allow" ? "allowed" : verdict.replaceAll("_", " ")}
    </span>
  );
}
