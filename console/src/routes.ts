/** Which page is shown for which path. Each is loaded when it is first asked for. */
import type { FunctionComponent } from "preact";

export type PageProps = Record<string, string>;
type Page = FunctionComponent<PageProps>;

/**
 * The permission without which a page shows nothing; `everywhere`: held without a scope.
 *
 * `or`: one that is enough instead.
 */
export interface Need {
  permission: string;
  everywhere?: boolean;
  or?: string;
}

export interface PageRoute {
  pattern: string;
  /** The word in the tab's title; a page may set a better one. */
  title: string;
  /** Null: everybody may open it. */
  needs: Need | null;
  load: () => Promise<{ default: Page }>;
}

/** Declares a page; its parameters are those of the pattern. `needs`: such as `jobs:read`. */
function page<P extends PageProps>(
  pattern: string,
  title: string,
  needs: string | Need | null,
  load: () => Promise<{ default: FunctionComponent<P> }>,
): PageRoute {
  return {
    pattern,
    title,
    needs: typeof needs === "string" ? { permission: needs } : needs,
    load: load as () => Promise<{ default: Page }>,
  };
}

const everywhere = (permission: string): Need => ({ permission, everywhere: true });

export const ROUTES: readonly PageRoute[] = [
  page("/", "Now", null, () => import("./pages/now.tsx")),
  page("/executions", "Executions", "executions:read", () => import("./pages/executions.tsx")),
  page("/executions/:id", "Execution", "executions:read", () => import("./pages/execution.tsx")),
  page("/safety", "Safety check", "jobs:read", () => import("./pages/safety.tsx")),
  page("/system", "System", everywhere("system:read"), () => import("./pages/system.tsx")),
  page("/audit", "Audit", everywhere("audit:read"), () => import("./pages/audit.tsx")),
  page("/access", "Access", everywhere("system:admin"), () => import("./pages/access.tsx")),
  page(
    "/credentials",
    "Credentials",
    everywhere("credentials:use"),
    () => import("./pages/credentials.tsx"),
  ),
  page("/calendars", "Calendars", "schedules:read", () => import("./pages/calendars.tsx")),
  page("/files", "Files", "jobs:read", () => import("./pages/files.tsx")),
  page("/approvals", "Approvals", "executions:read", () => import("./pages/approvals.tsx")),
  page("/approvals/:id", "Approval", "executions:read", () => import("./pages/approval.tsx")),
  page("/me", "My account", null, () => import("./pages/me.tsx")),
  page("/logged-in", "Logged in", null, () => import("./pages/logged-in.tsx")),
  page("/jobs", "Jobs", "jobs:read", () => import("./pages/jobs.tsx")),
  page("/jobs/new", "New job", "jobs:create", () => import("./pages/job-edit.tsx")),
  page("/jobs/:id/edit", "Edit a job", "jobs:update", () => import("./pages/job-edit.tsx")),
  page("/jobs/:id", "Job", "jobs:read", () => import("./pages/job.tsx")),
  page("/jobs/:id/launch", "Launch a job", "jobs:execute", () => import("./pages/job-launch.tsx")),
  page(
    "/launch",
    "Launch",
    { permission: "jobs:execute", or: "commands:run" },
    () => import("./pages/launch.tsx"),
  ),
  page("/schedules", "Schedules", "schedules:read", () => import("./pages/schedules.tsx")),
  page("/schedules/:id", "Schedule", "schedules:read", () => import("./pages/schedule.tsx")),
  page("/tonight", "Tonight", "schedules:read", () => import("./pages/tonight.tsx")),
  page("/targets", "Targets", "targets:read", () => import("./pages/targets.tsx")),
  page(
    "/targets/import",
    "Import targets",
    "targets:manage",
    () => import("./pages/target-import.tsx"),
  ),
  page("/targets/:id", "Target", "targets:read", () => import("./pages/target.tsx")),
  page("/groups", "Groups", everywhere("targets:read"), () => import("./pages/groups.tsx")),
  page(
    "/notifications",
    "Notifications",
    everywhere("system:read"),
    () => import("./pages/notifications.tsx"),
  ),
  page("/webhooks", "Webhooks", "webhooks:manage", () => import("./pages/webhooks.tsx")),
  page("/webhooks/:id", "Webhook", "webhooks:manage", () => import("./pages/webhook.tsx")),
  page("/triggers/:id", "Trigger", "triggers:read", () => import("./pages/trigger.tsx")),
  page(
    "/dead-letters",
    "Dead letters",
    "executions:read",
    () => import("./pages/dead-letters.tsx"),
  ),
];

export interface NavigationEntry {
  path: string;
  label: string;
  /** Pressed after g. */
  key: string;
  /** The first ones stand in the bar, the others in its menu. */
  inBar: boolean;
}

/** All places, in their order. */
export const NAVIGATION: readonly NavigationEntry[] = [
  { path: "/", label: "Now", key: "n", inBar: true },
  { path: "/executions", label: "Executions", key: "e", inBar: true },
  { path: "/jobs", label: "Jobs", key: "j", inBar: true },
  { path: "/schedules", label: "Schedules", key: "s", inBar: true },
  { path: "/targets", label: "Targets", key: "t", inBar: true },
  { path: "/approvals", label: "Approvals", key: "a", inBar: true },
  { path: "/dead-letters", label: "Dead letters", key: "d", inBar: true },
  { path: "/launch", label: "Launch", key: "l", inBar: true },
  { path: "/tonight", label: "Tonight", key: "o", inBar: false },
  { path: "/safety", label: "Safety check", key: "y", inBar: false },
  { path: "/system", label: "System", key: "m", inBar: false },
  { path: "/audit", label: "Audit", key: "u", inBar: false },
  { path: "/access", label: "Access", key: "c", inBar: false },
  { path: "/credentials", label: "Credentials", key: "r", inBar: false },
  { path: "/calendars", label: "Calendars", key: "k", inBar: false },
  { path: "/groups", label: "Groups", key: "p", inBar: false },
  { path: "/notifications", label: "Notifications", key: "b", inBar: false },
  { path: "/webhooks", label: "Webhooks", key: "w", inBar: false },
  { path: "/files", label: "Files", key: "f", inBar: false },
  { path: "/me", label: "My account", key: "i", inBar: false },
];
