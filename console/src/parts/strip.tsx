/** A row of short facts, each of which leads somewhere. */
import type { ComponentChildren } from "preact";
import { Link } from "../router.tsx";
import { Icon } from "./icon.tsx";
import type { Tone } from "./tone.ts";

export interface Fact {
  tone: Tone;
  text: ComponentChildren;
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
            {fact.text}
          </Link>
        </li>
      ))}
    </ul>
  );
}
