/** Which page is shown for which path. Each is loaded when it is first asked for. */
import type { FunctionComponent } from "preact";

export type PageProps = Record<string, string>;
type Page = FunctionComponent<PageProps>;

export interface PageRoute {
  pattern: string;
  /** The word in the tab's title; a page may set a better one. */
  title: string;
  load: () => Promise<{ default: Page }>;
}

/** Declares a page; its parameters are those of the pattern. */
function page<P extends PageProps>(
  pattern: string,
  title: string,
  load: () => Promise<{ default: FunctionComponent<P> }>,
): PageRoute {
  return { pattern, title, load: load as () => Promise<{ default: Page }> };
}

export const ROUTES: readonly PageRoute[] = [
  page("/", "Now", () => import("./pages/now.tsx")),
  page("/executions", "Executions", () => import("./pages/executions.tsx")),
  page("/executions/:id", "Execution", () => import("./pages/execution.tsx")),
];

export interface NavigationEntry {
  path: string;
  label: string;
  /** Pressed after g. */
  key: string;
  /** The first ones stand in the bar, the others in its menu. */
  inBar: boolean;
}

/** All places, in their order; those without a page yet are left out. */
const ALL: readonly NavigationEntry[] = [
  { path: "/", label: "Now", key: "n", inBar: true },
  { path: "/executions", label: "Executions", key: "e", inBar: true },
  { path: "/jobs", label: "Jobs", key: "j", inBar: true },
  { path: "/schedules", label: "Schedules", key: "s", inBar: true },
  { path: "/targets", label: "Targets", key: "t", inBar: true },
  { path: "/approvals", label: "Approvals", key: "a", inBar: true },
  { path: "/dead-letters", label: "Dead letters", key: "d", inBar: true },
  { path: "/launch", label: "Launch", key: "l", inBar: false },
  { path: "/tonight", label: "Tonight", key: "o", inBar: false },
  { path: "/safety", label: "Safety check", key: "y", inBar: false },
  { path: "/system", label: "System", key: "m", inBar: false },
  { path: "/audit", label: "Audit", key: "u", inBar: false },
  { path: "/access", label: "Access", key: "c", inBar: false },
  { path: "/credentials", label: "Credentials", key: "r", inBar: false },
  { path: "/calendars", label: "Calendars", key: "k", inBar: false },
  { path: "/files", label: "Files", key: "f", inBar: false },
  { path: "/me", label: "My account", key: "i", inBar: false },
];

export const NAVIGATION: readonly NavigationEntry[] = ALL.filter((entry) =>
  ROUTES.some((route) => route.pattern === entry.path),
);

/** True if the console has a page for this path. */
export function isPlace(path: string): boolean {
  return ROUTES.some((route) => route.pattern === path);
}
