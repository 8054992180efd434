/** Compares two outputs beside the page, which stays free for its reader. */
import { plainText } from "../log/ansi.ts";
import { compare, folded, generalize, linesOf } from "./compare.ts";
import type { DiffRow } from "./rows.ts";

/** What is compared. */
export interface DiffRequest {
  texts: readonly [string, string];
  /** The names of the machines if what differs on every machine is left out; null: nothing is. */
  names: readonly string[] | null;
}

/** The part of a worker's scope that is used; the library of types here is that of pages. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<DiffRequest>) => void) | null;
  postMessage(rows: DiffRow[]): void;
}

const scope = globalThis as unknown as WorkerScope;
scope.onmessage = ({ data }) => {
  rowsOf(data).then(
    (rows) => scope.postMessage(rows),
    // An error that the page can see: a rejection is not one.
    (failed) =>
      setTimeout(() => {
        throw failed;
      }),
  );
};

async function rowsOf({ texts, names }: DiffRequest): Promise<DiffRow[]> {
  const [left, right] = texts.map((text) => linesOf(text).map(plainText));
  const keys = (lines: readonly string[]) =>
    names ? lines.map((line) => generalize(line, names)) : lines;
  return folded(await compare([left!, right!], [keys(left!), keys(right!)]));
}
