/** A list of the API by the filter and the order that the URL has. */
import { type Answer, ask, type Given, type Route } from "../api/ask.ts";
import { query } from "../router.tsx";
import { type FilterWord, toQuery } from "./list-filter.ts";
import { type Listing, useListing } from "./listing.ts";
import { taste } from "./taste.ts";

interface AnyPage {
  items: unknown[];
  next: string | null;
}
/** Routes that answer with a page of a list. */
export type ListRoute = {
  [R in Route]: Answer<R> extends AnyPage ? R : never;
}[Route];
export type RowOf<R extends ListRoute> = Answer<R> extends { items: (infer T)[] } ? T : never;

interface ListOptions {
  words: readonly FilterWord[];
  /** The order if the URL has none; null: that of the API. */
  sort?: string;
  /** Further parameters, such as facets. */
  more?: Record<string, unknown>;
  limit?: number;
  everySeconds?: number;
}

const LIMIT = 50;

export interface FilteredList<T> {
  list: Listing<T>;
  words: readonly FilterWord[];
  /** As it stands in the URL. */
  filter: string;
  sort: string | null;
  defaultSort: string | null;
}

/** Return the list of a route, loaded as long as the component is shown. */
export function useFilteredList<R extends ListRoute>(
  route: R,
  { words, sort: defaultSort, more = {}, limit = LIMIT, everySeconds }: ListOptions,
): FilteredList<RowOf<R>> {
  const filter = query.value.get("q") ?? "";
  const sort = query.value.get("sort") ?? defaultSort ?? null;
  const { query: asked, text } = toQuery(filter, words, taste.value.clock);
  const list = useListing(
    (cursor, signal) => {
      const wanted = { ...asked, ...(text && { q: text }), ...more, sort, cursor, limit };
      return ask(route, { query: wanted, signal } as unknown as Given<R>) as Promise<
        AnyPage & { items: RowOf<R>[] }
      >;
    },
    [filter, sort],
    everySeconds ?? null,
  );
  return { list, words, filter, sort, defaultSort: defaultSort ?? null };
}
