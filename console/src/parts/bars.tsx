/** Columns over time or classes: each a button or a link with its words, wide enough to be hit. */
import { useEffect, useRef, useState } from "preact/hooks";
import { toneOf } from "./tone.ts";

export interface Bar {
  /** What a reader hears and a pointer sees: "14:00, 3 failed, 20 completed". */
  label: string;
  /** Sizes by state, drawn from the bottom. */
  parts: Record<string, number>;
  /** Its column, from 0, in a box with columns of its own. */
  place?: number;
  href?: string;
  onChoose?: () => void;
}

interface BarsProps {
  label: string;
  bars: readonly Bar[];
  height?: number;
  /** The size of a bar as high as the box; without it, that of the highest of these. */
  most?: number;
  /** The last bar is now. */
  past?: boolean;
}

export function Bars({ label, bars, height = 48, most, past = false }: BarsProps) {
  const box = useRef<HTMLDivElement>(null);
  // Of the past the last column is the newest: if not all fit, it is the one that is shown.
  useEffect(() => {
    if (past) box.current!.scrollLeft = box.current!.scrollWidth;
  }, [bars.length]);
  // One stop of the Tab key; arrows go on from there.
  const [at, setAt] = useState<number | null>(null);
  const stop = Math.min(at ?? (past ? bars.length - 1 : 0), bars.length - 1);
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const to = stop + (step ?? 0);
    if (!step || to < 0 || to >= bars.length) return;
    event.preventDefault();
    setAt(to);
    (box.current!.children[to] as HTMLElement).focus();
  };
  const highest = most ?? Math.max(1, ...bars.map((bar) => sum(bar.parts)));
  return (
    <div
      ref={box}
      class="bars"
      role="group"
      aria-label={label}
      style={{ "--bars-height": `${height}px` }}
      onKeyDown={onKeyDown}
    >
      {bars.map((bar, index) => {
        const inside = Object.entries(bar.parts)
          .filter(([, size]) => size > 0)
          .map(([state, size]) => (
            <i
              key={state}
              class={toneOf(state)}
              style={{ blockSize: `${Math.max(4, (size / highest) * 100)}%` }}
            />
          ));
        const style = bar.place === undefined ? {} : { gridColumnStart: bar.place + 1 };
        return bar.href ? (
          <a
            key={index}
            href={bar.href}
            title={bar.label}
            aria-label={bar.label}
            style={style}
            tabIndex={index === stop ? 0 : -1}
          >
            {inside}
          </a>
        ) : (
          <button
            key={index}
            type="button"
            title={bar.label}
            aria-label={bar.label}
            style={style}
            tabIndex={index === stop ? 0 : -1}
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
