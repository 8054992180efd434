/** Routes of the console: paths under /console, all state of a page in its URL. */
import { computed, signal } from "@preact/signals";
import type { ComponentChildren, JSX } from "preact";
import { changedSearch, type QueryChange } from "./paths.ts";
import { hasUnsaved, leave } from "./state/unsaved.ts";

export const BASE = "/console";

/** The URL that is shown, without its fragment. */
const shown = signal(new URL(location.href));
/** The path below /console, such as `/executions/7`. */
export const path = computed(() => shown.value.pathname.slice(BASE.length) || "/");
/** The query of the URL. */
export const query = computed(() => shown.value.searchParams);

/** Read the URL when the browser has changed it. */
export function listen(): void {
  addEventListener("popstate", onPopState);
  document.addEventListener("click", onClick);
  addEventListener("beforeunload", (event) => {
    if (hasUnsaved()) event.preventDefault();
  });
}

/** The browser went back or on: show that, or stay until it is said that changes may be lost. */
function onPopState(): void {
  const isOther = location.pathname !== shown.value.pathname;
  if (isOther && hasUnsaved()) {
    history.pushState(null, "", shown.value);
    leave(() => history.back());
  } else shown.value = new URL(location.href);
}

/** Go to a path below /console; `replace`: without a step in the history. */
export function go(to: string, { replace = false } = {}): void {
  const show = () => {
    history[replace ? "replaceState" : "pushState"](null, "", BASE + to);
    shown.value = new URL(location.href);
    if (!replace) scrollTo(0, 0);
  };
  const isOther = new URL(BASE + to, location.href).pathname !== shown.value.pathname;
  if (isOther) leave(show);
  else show();
}

/** Change parameters of the query; typing replaces, a choice makes a step in the history. */
export function setQuery(change: QueryChange, { replace = true } = {}): void {
  const search = changedSearch(query.value, change);
  if (search !== shown.value.search) go(path.value + search, { replace });
}

interface LinkProps extends Pick<JSX.IntrinsicElements["a"], "class" | "title" | "aria-label"> {
  to: string;
  "aria-current"?: "page" | undefined;
  children?: ComponentChildren;
}

/** A link to a page of the console. */
export function Link({ to, children, ...rest }: LinkProps) {
  return (
    <a {...rest} href={BASE + to}>
      {children}
    </a>
  );
}

function onClick(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element).closest?.("a");
  if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin)
    return;
  if (link.pathname !== BASE && !link.pathname.startsWith(`${BASE}/`)) return;
  // Lines of a page: the browser's own business.
  if (link.hash && link.pathname === location.pathname && link.search === location.search) return;
  event.preventDefault();
  go(link.pathname.slice(BASE.length) + link.search + link.hash);
}
