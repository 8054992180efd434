/** A state as shape, colour and word; counts of states as a row or a bar. */
import { Icon } from "./icon.tsx";
import { toneOf, wordsOf, worstFirst } from "./tone.ts";

interface StatusProps {
  state: string;
  /** Another word than the state's own; "" shows the shape only, with the state as its name. */
  label?: string;
}

export function Status({ state, label = wordsOf(state) }: StatusProps) {
  const tone = toneOf(state);
  return (
    <span class={`status tone ${tone}`}>
      <Icon name={tone} turning={state === "running" || state === "cancelling"} />
      {label || <span class="hidden-text">{wordsOf(state)}</span>}
    </span>
  );
}

interface TallyProps {
  counts: Record<string, number>;
  /** Makes each count a link, such as a filter by its state. */
  linkOf?: (state: string) => string;
}

/** Counts by state in words: ✓ 6,951 succeeded. */
export function Tally({ counts, linkOf }: TallyProps) {
  return (
    <ul class="tally">
      {worstFirst(counts).map(([state, count]) => {
        const words = (
          <Status state={state} label={`${count.toLocaleString("en")} ${wordsOf(state)}`} />
        );
        return <li key={state}>{linkOf ? <a href={linkOf(state)}>{words}</a> : words}</li>;
      })}
    </ul>
  );
}

/** Counts by state as one bar; the words stand in its label. */
export function TallyBar({ counts, total }: { counts: Record<string, number>; total: number }) {
  const pairs = worstFirst(counts);
  const words = pairs.map(([state, count]) => `${count} ${wordsOf(state)}`).join(", ");
  return (
    <div class="tally-bar" role="img" aria-label={`${words || "nothing yet"} of ${total}`}>
      {pairs.map(([state, count]) => (
        <i key={state} class={toneOf(state)} style={{ flexGrow: count }} />
      ))}
    </div>
  );
}
