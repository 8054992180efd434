/** What the safety check found, each with its rule and the text that it is about. */
import type { Finding } from "../api/types.ts";
import { Icon } from "../parts/icon.tsx";
import { Text } from "../parts/text.tsx";
import { toneOfVerdict } from "../parts/verdict.tsx";

export function Findings({ findings }: { findings: readonly Finding[] }) {
  if (findings.length === 0) return null;
  return (
    <ul class="stack-tight" aria-label="Findings of the safety check">
      {findings.map((finding) => (
        <li key={`${finding.rule} ${finding.pointer} ${finding.excerpt}`} class="row">
          <span class={`tone ${toneOfVerdict(finding.severity)}`}>
            <Icon name={toneOfVerdict(finding.severity)} />
          </span>
          <code>{finding.rule}</code> <Text of={finding.reason} />
          <code class="dim">
            <Text of={finding.excerpt} />
          </code>
        </li>
      ))}
    </ul>
  );
}
