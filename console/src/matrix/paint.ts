/** Drawing the cells: colours of the theme, a shape in cells that are large enough. */
import { TONES, type Tone } from "../parts/tone.ts";
import { edge, GAP, type Layout } from "./layout.ts";
import { TONE_OF } from "./states.ts";

/** Cells from this size on carry the shape of their tone. */
const SHAPE_FROM = 12;
/** Canvases of browsers end at 16,384 or 32,767 pixels; taller ones are drawn less sharp. */
const TALLEST = 16_000;
const SHAPES: Partial<Record<Tone, string>> = {
  ok: "M3 8.5 6.5 12 13 4.5",
  bad: "M4 4 12 12M12 4 4 12",
  live: "M8 2.5a5.5 5.5 0 1 1-5.5 5.5",
  warn: "M8 3 13.500 13H2.500z",
  hold: "M5.500 3.500v9M10.500 3.500v9",
  lost: "M5.500 5.500a2.500 2.500 0 1 1 3.800 2.100C8.400 8.200 8 8.700 8 9.700M8 12.700v.1",
  off: "M3.500 8h9",
};

export interface Scene {
  layout: Layout;
  status: Uint8Array;
  isSelected: (row: number) => boolean;
}

export interface Palette {
  fill: Record<Tone, string>;
  ink: Record<Tone, string>;
  page: string;
  accent: string;
}

/** Read the colours of the theme that the element has now. */
export function palette(element: HTMLElement): Palette {
  const probe = document.createElement("i");
  element.parentElement!.append(probe);
  const colour = (name: string): string => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const each = (of: (tone: Tone) => string) =>
    Object.fromEntries(TONES.map((tone) => [tone, of(tone)])) as Record<Tone, string>;
  const page = colour("--bg");
  const fill = each((tone) => colour(`--${tone}-fill`));
  const text = colour("--fg");
  const found = {
    page,
    fill,
    accent: colour("--accent"),
    ink: each((tone) => inkOn(fill[tone], page, text)),
  };
  probe.remove();
  return found;
}

/** The darker or lighter of two colours that stands out on a fill. */
function inkOn(fill: string, ...inks: string[]): string {
  const light = lightness(fill);
  return inks.reduce((best, ink) =>
    Math.abs(lightness(ink) - light) > Math.abs(lightness(best) - light) ? ink : best,
  );
}

function lightness(colour: string): number {
  const [red = 0, green = 0, blue = 0] = (colour.match(/[\d.]+/g) ?? []).map(Number);
  return 0.3 * red + 0.59 * green + 0.11 * blue;
}

/** Draw everything. */
export function paintAll(
  canvas: HTMLCanvasElement,
  width: number,
  scene: Scene,
  colours: Palette,
): void {
  const { layout } = scene;
  const ratio = Math.min(devicePixelRatio, TALLEST / layout.height);
  canvas.width = Math.max(1, Math.floor(width * ratio));
  canvas.height = Math.ceil(layout.height * ratio);
  canvas.style.blockSize = `${layout.height}px`;
  const pen = canvas.getContext("2d")!;
  pen.scale(ratio, ratio);
  // One colour after the other: changing it costs more than a cell.
  const corners = new Map<Tone, number[]>(TONES.map((tone) => [tone, []]));
  eachCell(layout, (row, x, y) => corners.get(TONE_OF[scene.status[row]!]!)!.push(x, y));
  for (const [tone, at] of corners) {
    pen.fillStyle = colours.fill[tone];
    for (let n = 0; n < at.length; n += 2)
      pen.fillRect(at[n]!, at[n + 1]!, layout.size, layout.size);
  }
  eachCell(layout, (row, x, y) => paintMarks(pen, scene, colours, row, x, y));
}

function eachCell(layout: Layout, visit: (row: number, x: number, y: number) => void): void {
  const step = layout.size + GAP;
  for (const { first, count, top } of layout.sections) {
    for (let n = 0; n < count; n++) {
      const x = (n % layout.columns) * step;
      visit(layout.order[first + n]!, x, top + Math.floor(n / layout.columns) * step);
    }
  }
}

/** Draw the cells of some rows anew. */
export function paintRows(
  canvas: HTMLCanvasElement,
  rows: ReadonlySet<number>,
  scene: Scene,
  colours: Palette,
): void {
  const pen = canvas.getContext("2d")!;
  const { layout, status } = scene;
  for (const row of rows) {
    const position = layout.place[row]!;
    if (position < 0) continue;
    const { x, y } = edge(layout, position);
    pen.fillStyle = colours.fill[TONE_OF[status[row]!]!];
    pen.fillRect(x, y, layout.size, layout.size);
    paintMarks(pen, scene, colours, row, x, y);
  }
}

function paintMarks(
  pen: CanvasRenderingContext2D,
  { layout, status, isSelected }: Scene,
  colours: Palette,
  row: number,
  x: number,
  y: number,
): void {
  const tone = TONE_OF[status[row]!]!;
  const selected = isSelected(row);
  const shape = layout.size >= SHAPE_FROM ? PATHS[tone] : undefined;
  if (!shape && !selected) return;
  if (shape) {
    const scale = layout.size / 16;
    pen.save();
    pen.translate(x + layout.size * 0.1, y + layout.size * 0.1);
    pen.scale(scale * 0.8, scale * 0.8);
    pen.strokeStyle = colours.ink[tone];
    pen.lineWidth = 1.75;
    pen.stroke(shape);
    pen.restore();
  }
  if (!selected) return;
  pen.strokeStyle = colours.accent;
  pen.lineWidth = 2;
  pen.strokeRect(x + 1, y + 1, layout.size - 2, layout.size - 2);
}

const PATHS = Object.fromEntries(
  Object.entries(SHAPES).map(([tone, path]) => [tone, new Path2D(path)]),
) as Partial<Record<Tone, Path2D>>;
