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
  page("/safety", "Safety check", () => import("./pages/safety.tsx")),
  page("/system", "System", () => import("./pages/system.tsx")),
  page("/audit", "Audit", () => import("./pages/audit.tsx")),
  page("/access", "Access", () => import("./pages/access.tsx")),
  page("/credentials", "Credentials", () => import("./pages/credentials.tsx")),
  page("/calendars", "Calendars", () => import("./pages/calendars.tsx")),
  page("/files", "Files", () => import("./pages/files.tsx")),
  page("/approvals", "Approvals", () => import("./pages/approvals.tsx")),
  page("/approvals/:id", "Approval", () => import("./pages/approval.tsx")),
  page("/me", "My account", () => import("./pages/me.tsx")),
  page("/logged-in", "Logged in", () => import("./pages/logged-in.tsx")),
  page("/jobs", "Jobs", () => import("./pages/jobs.tsx")),
  page("/jobs/:id", "Job", () => import("./pages/job.tsx")),
  page("/jobs/:id/launch", "Launch a job", () => import("./pages/job-launch.tsx")),
  page("/launch", "Launch", () => import("./pages/launch.tsx")),
  page("/schedules", "Schedules", () => import("./pages/schedules.tsx")),
  page("/schedules/:id", "Schedule", () => import("./pages/schedule.tsx")),
  page("/tonight", "Tonight", () => import("./pages/tonight.tsx")),
  page("/targets", "Targets", () => import("./pages/targets.tsx")),
  page("/targets/:id", "Target", () => import("./pages/target.tsx")),
  page("/dead-letters", "Dead letters", () => import("./pages/dead-letters.tsx")),
];

export interface NavigationEntry {
  path: string;
  label: string;
  /** Pressed after g. */
  key: string;
  /** The first ones stand in the bar, the others in its menu. */
  inBar: boolean;
  /** The permission without which there is nothing to see. */
  needs?: string;
}

/** All places, in their order; those without a page yet are left out. */
const ALL: readonly NavigationEntry[] = [
  { path: "/", label: "Now", key: "n", inBar: true },
  { path: "/executions", label: "Executions", key: "e", inBar: true, needs: "executions:read" },
  { path: "/jobs", label: "Jobs", key: "j", inBar: true, needs: "jobs:read" },
  { path: "/schedules", label: "Schedules", key: "s", inBar: true, needs: "schedules:read" },
  { path: "/targets", label: "Targets", key: "t", inBar: true, needs: "targets:read" },
  { path: "/approvals", label: "Approvals", key: "a", inBar: true, needs: "executions:read" },
  { path: "/dead-letters", label: "Dead letters", key: "d", inBar: true, needs: "executions:read" },
  { path: "/launch", label: "Launch", key: "l", inBar: false, needs: "jobs:execute" },
  { path: "/tonight", label: "Tonight", key: "o", inBar: false, needs: "schedules:read" },
  { path: "/safety", label: "Safety check", key: "y", inBar: false, needs: "jobs:read" },
  { path: "/system", label: "System", key: "m", inBar: false, needs: "system:read" },
  { path: "/audit", label: "Audit", key: "u", inBar: false, needs: "audit:read" },
  { path: "/access", label: "Access", key: "c", inBar: false, needs: "system:admin" },
  { path: "/credentials", label: "Credentials", key: "r", inBar: false, needs: "credentials:use" },
  { path: "/calendars", label: "Calendars", key: "k", inBar: false, needs: "schedules:read" },
  { path: "/files", label: "Files", key: "f", inBar: false, needs: "jobs:read" },
  { path: "/me", label: "My account", key: "i", inBar: false },
];

export const NAVIGATION: readonly NavigationEntry[] = ALL.filter((entry) =>
  ROUTES.some((route) => route.pattern === entry.path),
);

/** True if the console has a page for this path. */
export function isPlace(path: string): boolean {
  return ROUTES.some((route) => route.pattern === path);
}
