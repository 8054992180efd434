/** A row of short facts, each of which leads somewhere. */
import { Link } from "../router.tsx";
import { Icon } from "./icon.tsx";
import { Text } from "./text.tsx";
import type { Tone } from "./tone.ts";

export interface Fact {
  tone: Tone;
  /** May hold names of others. */
  text: string;
  to: string;
}

export function Strip({ label, facts }: { label: string; facts: readonly Fact[] }) {
  return (
    <ul class="strip" aria-label={label}>
      {facts.map((fact, index) => (
        <li key={index}>
          <Link to={fact.to} class="row">
            <span class={`tone ${fact.tone}`}>
              <Icon name={fact.tone} />
            </span>
            <Text of={fact.text} />
          </Link>
        </li>
      ))}
    </ul>
  );
}
