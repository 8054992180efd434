/**
 * A table whose DOM does not grow with its rows: beyond 200 only those in view are there.
 *
 * Arrow keys (and j and k, parts/keyboard.tsx) move over rows, Enter opens, Space (x) chooses. On a
 * phone rows become cards.
 */
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { taste } from "../state/taste.ts";
import { Icon } from "./icon.tsx";

const ALL_ROWS_MAX = 200;
const SPARE_ROWS = 10;

export interface Column<T> {
  name: string;
  label: string;
  /** A track of the grid, such as `120px` or `minmax(120px, 2fr)`. */
  width: string;
  cell: (row: T) => ComponentChildren;
  /** The value of `sort` in the URL of the API that orders by this column. */
  sort?: string;
  end?: boolean;
  /** On a phone it needs no label before it: buttons. */
  bare?: boolean;
}

/** Which rows are selected; `isAll`: all that the filter finds, but some. */
export interface RowSelection {
  readonly isAll: { readonly value: boolean };
  has(key: string): boolean;
  toggle(key: string): void;
  chooseAll(): void;
  clear(): void;
}

interface TableProps<T> {
  label: string;
  columns: readonly Column<T>[];
  rows: readonly T[];
  keyOf: (row: T) => string;
  onOpen?: (row: T) => void;
  selection?: RowSelection;
  /** The order, such as `-id`; with `onSort` headings become buttons. */
  sort?: string | null;
  onSort?: (sort: string) => void;
  /** Called when the end comes near. */
  onMore?: () => void;
  /** Least width in pixels; narrower windows scroll it. */
  width?: number;
}

export function Table<T>(props: TableProps<T>) {
  const { columns, rows, selection } = props;
  const box = useRef<HTMLDivElement>(null);
  const [current, setCurrent] = useState(0);
  const rowHeight = taste.value.density === "compact" ? 28 : 36;
  const virtual = rows.length > ALL_ROWS_MAX;
  const { first, count, onScroll } = useWindow(box, virtual, rows.length, rowHeight, props.onMore);
  const tracks = columns.map((column) => column.width).join(" ");
  const style = {
    "--columns": selection ? `32px ${tracks}` : tracks,
    "--table-width": props.width ? `${props.width}px` : "0",
    "--table-height": virtual ? "min(70vh, 800px)" : "none",
  };
  const focus = (index: number) => {
    const to = Math.max(0, Math.min(rows.length - 1, index));
    setCurrent(to);
    if (virtual) keepInView(box.current!, to, rowHeight);
    requestAnimationFrame(() => {
      box.current?.querySelector<HTMLElement>(`[data-index="${to}"]`)?.focus();
    });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const line = (event.target as HTMLElement).closest<HTMLElement>("[data-index]");
    if (!line || event.target !== line || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = Number(line.dataset["index"]);
    const row = rows[index];
    const page = Math.max(1, Math.floor(box.current!.clientHeight / rowHeight) - 1);
    const to = {
      ArrowDown: index + 1,
      ArrowUp: index - 1,
      PageDown: index + page,
      PageUp: index - page,
      Home: 0,
      End: rows.length - 1,
    }[event.key];
    if (to !== undefined) focus(to);
    else if (row && event.key === "Enter") props.onOpen?.(row);
    else if (row && selection && event.key === " ") selection.toggle(props.keyOf(row));
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const lines = rows
    .slice(first, first + count)
    .map((row, at) => (
      <Line
        key={props.keyOf(row)}
        row={row}
        index={first + at}
        tabIndex={first + at === Math.min(current, rows.length - 1) ? 0 : -1}
        table={props}
        onFocus={setCurrent}
      />
    ));
  return (
    <div
      ref={box}
      class="table cards"
      role="grid"
      aria-label={props.label}
      aria-rowcount={rows.length + 1}
      aria-multiselectable={selection ? "true" : undefined}
      style={style}
      onScroll={onScroll}
      onKeyDown={onKeyDown}
    >
      <Headings table={props} />
      {virtual ? (
        <div class="tall" role="rowgroup" style={{ blockSize: `${rows.length * rowHeight}px` }}>
          <div
            class="window"
            role="presentation"
            style={{ transform: `translateY(${first * rowHeight}px)` }}
          >
            {lines}
          </div>
        </div>
      ) : (
        <div role="rowgroup">{lines}</div>
      )}
    </div>
  );
}

function Headings<T>({ table }: { table: TableProps<T> }) {
  const { columns, selection, sort, onSort } = table;
  return (
    <div role="rowgroup" class="headings">
      <div role="row" aria-rowindex={1} class="headings">
        {selection && (
          <span role="columnheader">
            <input
              type="checkbox"
              class="check"
              aria-label="Select all that match"
              checked={selection.isAll.value}
              onChange={() => (selection.isAll.value ? selection.clear() : selection.chooseAll())}
            />
          </span>
        )}
        {columns.map((column) => {
          const by = column.sort;
          const order = by && sort === by ? "ascending" : sort === `-${by}` ? "descending" : "none";
          return (
            <span
              key={column.name}
              role="columnheader"
              class={column.end ? "end" : ""}
              aria-sort={by && onSort ? order : undefined}
            >
              {by && onSort ? (
                <button type="button" onClick={() => onSort(sort === by ? `-${by}` : by)}>
                  {column.label}
                  {order !== "none" && <Icon name={order === "ascending" ? "up" : "down"} />}
                </button>
              ) : (
                column.label
              )}
            </span>
          );
        })}
      </div>
    </div>
  );
}

interface LineProps<T> {
  row: T;
  index: number;
  tabIndex: number;
  table: TableProps<T>;
  onFocus: (index: number) => void;
}

function Line<T>({ row, index, tabIndex, table, onFocus }: LineProps<T>) {
  const { columns, selection, keyOf, onOpen } = table;
  const key = keyOf(row);
  const chosen = selection?.has(key);
  const onClick = (event: MouseEvent) => {
    const hit = (event.target as Element).closest("a, button, input, label");
    if (!hit && !getSelection()?.toString()) onOpen?.(row);
  };
  return (
    <div
      role="row"
      class={onOpen ? "line opens" : "line"}
      data-index={index}
      aria-rowindex={index + 2}
      aria-selected={selection ? chosen : undefined}
      tabIndex={tabIndex}
      onFocus={() => onFocus(index)}
      onClick={onClick}
    >
      {selection && (
        <span role="gridcell" class="bare">
          <input
            type="checkbox"
            class="check"
            tabIndex={-1}
            aria-label={`Select ${key}`}
            checked={chosen}
            onChange={() => selection.toggle(key)}
          />
        </span>
      )}
      {columns.map((column, at) => (
        <span
          key={column.name}
          role="gridcell"
          class={classOf(column, at)}
          data-label={column.label}
        >
          {column.cell(row)}
        </span>
      ))}
    </div>
  );
}

function classOf<T>({ end, bare }: Column<T>, at: number): string {
  return [at === 0 && "first", end && "end", bare && "bare"].filter(Boolean).join(" ");
}

/** Return which rows are in view, and call `onMore` when the last ones are. */
function useWindow(
  box: { current: HTMLDivElement | null },
  virtual: boolean,
  total: number,
  rowHeight: number,
  onMore: (() => void) | undefined,
) {
  const [top, setTop] = useState(0);
  useEffect(() => {
    if (!onMore) return;
    const element = box.current!;
    const near = () => {
      const end = virtual
        ? element.scrollTop + element.clientHeight > element.scrollHeight - 20 * rowHeight
        : element.getBoundingClientRect().bottom < innerHeight + 20 * rowHeight;
      if (end) onMore();
    };
    near();
    const target = virtual ? element : window;
    target.addEventListener("scroll", near, { passive: true });
    return () => target.removeEventListener("scroll", near);
  }, [virtual, total, rowHeight, onMore, box]);
  if (!virtual) return { first: 0, count: total };
  const first = Math.max(0, Math.floor(top / rowHeight) - SPARE_ROWS);
  const seen = Math.ceil(Math.min(innerHeight * 0.7, 800) / rowHeight) + 2 * SPARE_ROWS;
  return {
    first,
    count: Math.min(seen, total - first),
    onScroll: (event: Event) => setTop((event.currentTarget as HTMLElement).scrollTop),
  };
}

function keepInView(box: HTMLElement, index: number, rowHeight: number): void {
  const heading = 32;
  const top = index * rowHeight;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + rowHeight + heading > box.scrollTop + box.clientHeight)
    box.scrollTop = top + rowHeight + heading - box.clientHeight;
}
