/** Columns over time or classes: each a button or a link with its words, wide enough to be hit. */
import { useEffect, useRef } from "preact/hooks";
import { toneOf } from "./tone.ts";

export interface Bar {
  /** What a reader hears and a pointer sees: "14:00, 3 failed, 20 completed". */
  label: string;
  /** Sizes by state, drawn from the bottom. */
  parts: Record<string, number>;
  href?: string;
  onChoose?: () => void;
}

interface BarsProps {
  label: string;
  bars: readonly Bar[];
  height?: number;
}

export function Bars({ label, bars, height = 48 }: BarsProps) {
  const box = useRef<HTMLDivElement>(null);
  // The last column is the newest: where not all fit, it is the one that is shown.
  useEffect(() => {
    box.current!.scrollLeft = box.current!.scrollWidth;
  }, [bars.length]);
  const most = Math.max(1, ...bars.map((bar) => sum(bar.parts)));
  return (
    <div
      ref={box}
      class="bars"
      role="group"
      aria-label={label}
      style={{ "--bars-height": `${height}px` }}
    >
      {bars.map((bar, index) => {
        const inside = Object.entries(bar.parts)
          .filter(([, size]) => size > 0)
          .map(([state, size]) => (
            <i
              key={state}
              class={toneOf(state)}
              style={{ blockSize: `${Math.max(4, (size / most) * 100)}%` }}
            />
          ));
        return bar.href ? (
          <a key={index} href={bar.href} title={bar.label} aria-label={bar.label}>
            {inside}
          </a>
        ) : (
          <button
            key={index}
            type="button"
            title={bar.label}
            aria-label={bar.label}
            onClick={bar.onChoose}
          >
            {inside}
          </button>
        );
      })}
    </div>
  );
}

function sum(parts: Record<string, number>): number {
  return Object.values(parts).reduce((total, one) => total + one, 0);
}
