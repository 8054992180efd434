/** A list of the API, page after page by its cursor. */
import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { RequestError } from "../api/problem.ts";
import { Resource } from "./resource.ts";

export interface Page<T> {
  items: T[];
  next: string | null;
  total?: number;
  facets?: Record<string, Record<string, number>>;
}
type FetchPage<T> = (cursor: string | null, signal: AbortSignal) => Promise<Page<T>>;

/** The list as loaded so far: reload gives its first page, `more` appends the next one. */
export class Listing<T> extends Resource<Page<T>> {
  readonly loadingMore = signal(false);
  private readonly fetchPage: FetchPage<T>;

  constructor(fetchPage: FetchPage<T>, everySeconds: number | null) {
    // Once more was loaded the list stays as it is: a reload would take rows from under the reader.
    super(
      (signal) =>
        this.isLong && this.error.value === null
          ? Promise.resolve(this.data.value!)
          : fetchPage(null, signal),
      everySeconds,
    );
    this.fetchPage = fetchPage;
  }

  private isLong = false;

  /** Load the next page, if there is one. */
  readonly more = async (): Promise<void> => {
    const shown = this.data.value;
    if (!shown?.next || this.loadingMore.value) return;
    this.loadingMore.value = true;
    try {
      const page = await this.fetchPage(shown.next, new AbortController().signal);
      if (this.data.value !== shown) return;
      this.isLong = true;
      this.data.value = { ...page, items: [...shown.items, ...page.items] };
    } catch (failed) {
      if (!(failed instanceof RequestError)) throw failed;
      this.error.value = failed;
    } finally {
      this.loadingMore.value = false;
    }
  };

  /** Begin at the first page again. */
  readonly restart = (): Promise<void> => {
    this.isLong = false;
    return this.reload();
  };
}

/** Return a listing for as long as the component is shown; another one if `keys` change. */
export function useListing<T>(
  fetchPage: FetchPage<T>,
  keys: readonly unknown[],
  everySeconds: number | null = null,
): Listing<T> {
  const listing = useMemo(() => new Listing(fetchPage, everySeconds), keys);
  useEffect(() => {
    listing.start();
    return () => listing.stop();
  }, [listing]);
  useEffect(() => listing.setPeriod(everySeconds), [listing, everySeconds]);
  return listing;
}
