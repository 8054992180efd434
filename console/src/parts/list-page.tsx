/** The frame of a page with one list: heading, filter, table, and why it is empty. */
import type { ComponentChildren } from "preact";
import { go, setQuery } from "../router.tsx";
import { formatTerm, parseFilter } from "../state/filter.ts";
import type { FilteredList } from "../state/filtered-list.ts";
import type { Page } from "../state/listing.ts";
import { Empty } from "./empty.tsx";
import { Filter } from "./filter.tsx";
import { type Column, Table } from "./table.tsx";
import { Loaded } from "./trouble.tsx";

interface ListPageProps<T> {
  title: string;
  /** What the rows are: jobs. */
  rows: string;
  of: FilteredList<T>;
  /** What can be typed into the filter, by example. */
  placeholder: string;
  /** The list has a full-text search. */
  text?: boolean;
  columns: readonly Column<T>[];
  keyOf: (row: T) => string;
  /** The page of a row; `onOpen` if it opens something else. */
  pathOf?: (row: T) => string;
  onOpen?: (row: T) => void;
  /** Least width of the table in pixels. */
  width: number;
  actions?: ComponentChildren;
  /** Between heading and filter. */
  intro?: ComponentChildren;
  /** Between filter and table. */
  above?: (page: Page<T>) => ComponentChildren;
  /** Why there is nothing without any filter, and what to do. */
  empty: ComponentChildren;
}

export function ListPage<T>(props: ListPageProps<T>) {
  const { title, rows, of, actions } = props;
  return (
    <div class="stack">
      <div class="head">
        <h1>{title}</h1>
        {actions && <div class="actions">{actions}</div>}
      </div>
      {props.intro}
      <Filter
        label={`Filter ${rows}`}
        words={of.words}
        text={props.text ?? false}
        placeholder={props.placeholder}
      />
      <Loaded resource={of.list} what={rows}>
        {(page) => (
          <>
            {props.above?.(page)}
            {page.items.length > 0 ? <Rows page={page} {...props} /> : <Nothing {...props} />}
          </>
        )}
      </Loaded>
    </div>
  );
}

function Rows<T>({ page, ...props }: ListPageProps<T> & { page: Page<T> }) {
  const { title, rows, of, columns, keyOf, pathOf, width } = props;
  const { list, sort, defaultSort } = of;
  const onOpen = props.onOpen ?? (pathOf && ((row: T) => go(pathOf(row))));
  const sorts = columns.some((column) => column.sort);
  return (
    <>
      <Table
        label={title}
        columns={columns}
        rows={page.items}
        keyOf={keyOf}
        {...(onOpen && { onOpen })}
        {...(sorts && {
          sort,
          onSort: (by: string) => setQuery({ sort: by === defaultSort ? null : by }),
        })}
        onMore={list.more}
        width={width}
      />
      {page.next && (
        <p>
          <button
            type="button"
            class="button"
            disabled={list.loadingMore.value}
            onClick={() => void list.more()}
          >
            {list.loadingMore.value ? "Loading …" : `More ${rows}`}
          </button>
        </p>
      )}
    </>
  );
}

/** Why the list is empty: which word of the filter to drop, or how to begin. */
function Nothing<T>({ rows, of, empty }: ListPageProps<T>) {
  const terms = parseFilter(of.filter);
  if (terms.length === 0) return <>{empty}</>;
  const show = (q: string | null) => setQuery({ q }, { replace: false });
  return (
    <Empty why={`No ${rows} fit this filter.`}>
      <span class="row">
        {terms.length > 1 &&
          terms.map((term) => (
            <button
              key={formatTerm(term)}
              type="button"
              class="button small"
              onClick={() =>
                show(
                  terms
                    .filter((other) => other !== term)
                    .map(formatTerm)
                    .join(" "),
                )
              }
            >
              Without <code>{formatTerm(term)}</code>
            </button>
          ))}
        <button type="button" class="button small" onClick={() => show(null)}>
          Show all {rows}
        </button>
      </span>
    </Empty>
  );
}
