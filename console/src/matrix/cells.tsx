/**
 * One cell a target, on a canvas: the DOM does not grow with the targets.
 *
 * The table beside it says the same in words. Arrow keys move over cells; a live region says where.
 */
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { wordsOf } from "../parts/tone.ts";
import { cellAt, edge, type Group, type Layout, layOut, MOVES, moved } from "./layout.ts";
import { paintAll, paintRows, palette } from "./paint.ts";
import type { Runs } from "./runs.ts";
import { RUN_STATUSES } from "./states.ts";

interface CellsProps {
  runs: Runs;
  groups: readonly Group[];
  /** Calls with the rows that changed, once a frame; null: all of them. */
  onDraw: (listener: (rows: ReadonlySet<number> | null) => void) => () => void;
  isSelected: (row: number) => boolean;
  /** The row whose details are open; -1: none. */
  open: number;
  onOpen: (row: number) => void;
  onToggle: (row: number) => void;
}

export function Cells(props: CellsProps) {
  const { runs, groups, open } = props;
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const width = useWidth(box);
  const [at, setAt] = useState(-1);
  const [hovered, setHovered] = useState(-1);
  const layout = useMemo(
    () => layOut(width > 0 ? groups : [], runs.count, width),
    [groups, runs, width],
  );
  const position = Math.min(at, layout.order.length - 1);
  const scene = { layout, status: runs.status, isSelected: props.isSelected };

  useEffect(() => {
    const element = canvas.current!;
    const colours = palette(element);
    paintAll(element, width, scene, colours);
    const stop = props.onDraw((rows) => {
      if (rows) paintRows(element, rows, scene, colours);
      else paintAll(element, width, scene, colours);
    });
    const themes = new MutationObserver(() => paintAll(element, width, scene, palette(element)));
    themes.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const onDark = () => paintAll(element, width, scene, palette(element));
    dark.addEventListener("change", onDark);
    return () => {
      stop();
      themes.disconnect();
      dark.removeEventListener("change", onDark);
    };
  }, [layout, runs, props.isSelected]);

  const rowAt = (event: PointerEvent | MouseEvent): number => {
    const found = cellAt(layout, event.offsetX, event.offsetY);
    return found < 0 ? -1 : layout.order[found]!;
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = MOVES[event.key];
    const row = layout.order[position];
    if (move) setAt(moved(layout, position, move));
    else if (event.key === "Enter" && row !== undefined) props.onOpen(row);
    else if ((event.key === " " || event.key === "x") && row !== undefined) props.onToggle(row);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const spoken = position >= 0 ? layout.order[position]! : -1;
  return (
    <div class="cells" ref={box}>
      <div
        class="cells-keys"
        role="application"
        aria-label={`Map of ${layout.order.length} targets. Arrow keys move, Enter opens, x selects.`}
        tabIndex={0}
        onKeyDown={onKeyDown}
        onFocus={() => setAt(Math.max(0, open >= 0 ? layout.place[open]! : position))}
        onBlur={() => setAt(-1)}
      >
        <canvas
          ref={canvas}
          onClick={(event) => {
            const row = rowAt(event);
            if (row < 0) return;
            if (event.shiftKey || event.ctrlKey || event.metaKey) props.onToggle(row);
            else props.onOpen(row);
          }}
          onPointerMove={(event) => setHovered(rowAt(event))}
          onPointerLeave={() => setHovered(-1)}
        />
        {layout.sections
          .filter((section) => section.label)
          .map((section) => (
            <span
              key={section.label}
              class="cells-heading small dim"
              style={{ insetBlockStart: `${section.top - 20}px` }}
            >
              {section.label} · {section.count.toLocaleString("en")}
            </span>
          ))}
        {spoken >= 0 && <Frame layout={layout} position={position} kind="focus" />}
        {open >= 0 && layout.place[open]! >= 0 && (
          <Frame layout={layout} position={layout.place[open]!} kind="open" />
        )}
      </div>
      <p class="cells-words small" role="status" aria-live="polite">
        {describe(runs, spoken >= 0 ? spoken : hovered) ?? (
          <span class="dim">
            One cell for each target. Point at one, or move with the arrow keys.
          </span>
        )}
      </p>
    </div>
  );
}

/** `web-00042 failed, exit 1`; null if there is no such row. */
export function describe(runs: Runs, row: number): string | null {
  if (row < 0 || row >= runs.count) return null;
  const state = RUN_STATUSES[runs.status[row]!]!;
  const parts = [`${runs.name[row]} ${wordsOf(state)}`];
  const exit = runs.exitCode[row];
  if (exit !== null && state !== "waiting" && state !== "running") parts.push(`exit ${exit}`);
  const error = runs.errorCode[row];
  if (error && error !== "nonzero_exit" && error !== state) parts.push(wordsOf(error));
  const proof = runs.proof[row];
  if (proof) parts.push(wordsOf(proof));
  return parts.join(", ");
}

function Frame(props: { layout: Layout; position: number; kind: "focus" | "open" }) {
  const { layout, position, kind } = props;
  const element = useRef<HTMLElement>(null);
  const { x, y } = edge(layout, position);
  useEffect(() => {
    if (kind === "focus") element.current?.scrollIntoView({ block: "nearest" });
  }, [position, kind]);
  const style = {
    transform: `translate(${x - 2}px, ${y - 2}px)`,
    inlineSize: `${layout.size + 4}px`,
    blockSize: `${layout.size + 4}px`,
  };
  return <i ref={element} class={`cells-frame ${kind}`} style={style} />;
}

function useWidth(box: { current: HTMLElement | null }): number {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const element = box.current!;
    const watch = new ResizeObserver(() => setWidth(element.clientWidth));
    // It is told the width at once, after the layout: to ask for it here would be a layout of its own.
    watch.observe(element);
    return () => watch.disconnect();
  }, [box]);
  return width;
}
