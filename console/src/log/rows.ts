/** Rows of the log view, made by hand: some forty of them, filled again as one scrolls. */
import { splitHidden } from "../parts/hidden-characters.ts";
import { type Piece, pieces } from "./ansi.ts";
import { droppedWords, type OutputLine } from "./source.ts";

export interface Looks {
  readonly wrap: boolean;
  readonly times: boolean;
  readonly utc: boolean;
  readonly ansi: boolean;
  /** The output is that of several targets: each line has its target's name. */
  readonly names: boolean;
  /** The text that is marked; "": none. */
  readonly mark: string;
}

export function makeRow(): HTMLDivElement {
  const row = document.createElement("div");
  row.className = "log-row";
  const number = row.appendChild(document.createElement("a"));
  number.className = "log-number";
  number.tabIndex = -1;
  for (const name of ["log-time", "log-name", "log-text"])
    row.appendChild(document.createElement("span")).className = name;
  return row;
}

/** Show a line in a row; `undefined`: it is being fetched. */
export function fillRow(
  row: HTMLDivElement,
  number: number,
  line: OutputLine | undefined,
  looks: Looks,
): void {
  const [link, time, name, text] = row.children as unknown as [
    HTMLAnchorElement,
    HTMLElement,
    HTMLElement,
    HTMLElement,
  ];
  link.textContent = String(number);
  link.href = `#L${number}`;
  time.textContent = line && looks.times ? clockTime(line.at, looks.utc) : "";
  name.replaceChildren(...(line && looks.names ? textNodes(line.target) : []));
  text.title = line ? line.at : "";
  text.replaceChildren(...(line ? contentOf(line, looks) : ["…"]));
  row.classList.toggle("log-stderr", line?.stream === "stderr");
}

/** The time of day, to the second. Not by the locale: that takes as long as the rest of the row. */
function clockTime(at: string, utc: boolean): string {
  if (utc) return at.slice(11, 19);
  const time = new Date(at);
  const parts = [time.getHours(), time.getMinutes(), time.getSeconds()];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function contentOf(line: OutputLine, looks: Looks): (Node | string)[] {
  if (line.dropped !== null) return [span("log-note", droppedWords(line.dropped))];
  const parts: Piece[] = looks.ansi ? pieces(line.text) : [{ text: line.text, look: "" }];
  const nodes = parts.flatMap((piece) => pieceNodes(piece, looks.mark));
  if (line.cut) nodes.push(span("log-note", " the line is longer: see raw"));
  return nodes;
}

function pieceNodes({ text, look }: Piece, mark: string): (Node | string)[] {
  const nodes = mark ? marked(text, mark) : textNodes(text);
  if (!look) return nodes;
  const element = span(look, "");
  element.replaceChildren(...nodes);
  return [element];
}

function marked(text: string, mark: string): (Node | string)[] {
  const nodes: (Node | string)[] = [];
  const folded = text.toLowerCase();
  const wanted = mark.toLowerCase();
  let at = 0;
  // A text whose length changes with its case is not marked.
  if (folded.length === text.length) {
    for (let found = folded.indexOf(wanted); found >= 0; found = folded.indexOf(wanted, at)) {
      nodes.push(...textNodes(text.slice(at, found)));
      const element = document.createElement("mark");
      element.replaceChildren(...textNodes(text.slice(found, found + wanted.length)));
      nodes.push(element);
      at = found + wanted.length;
    }
  }
  return [...nodes, ...textNodes(text.slice(at))];
}

/** The text as nodes; characters that turn or hide text are shown as marks. */
function textNodes(text: string): (Node | string)[] {
  if (!text) return [];
  return splitHidden(text).map((part) => (part.hidden ? span("bidi-mark", part.text) : part.text));
}

function span(look: string, text: string): HTMLSpanElement {
  const element = document.createElement("span");
  element.className = look;
  element.textContent = text;
  return element;
}
