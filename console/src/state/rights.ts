/** What the person may do, to leave out what they never can. The server decides about each request. */
import { NAVIGATION, type NavigationEntry, type Need, type PageRoute, ROUTES } from "../routes.ts";
import { formatTerm } from "./filter.ts";
import { me } from "./session.ts";

type Labels = Readonly<Record<string, string>>;

/** Launching a stored job, and commands without one: each is held without the other. */
const LAUNCH = ["jobs:execute", "commands:run"] as const;

/**
 * True if the person holds this permission for these labels; null: for any at all.
 *
 * Whoever launches sees at least what they launched.
 */
export function mayDo(permission: string, labels: Labels | null = null): boolean {
  const scopes = scopesOf(permission);
  const own = permission === "executions:read" ? LAUNCH.flatMap(scopesOf) : [];
  return [...scopes, ...own].some((scope) => labels === null || mayFit(scope, labels));
}

/** True if the person may launch something: stored jobs, or commands without one. */
export function mayLaunch(): boolean {
  return LAUNCH.some((permission) => mayDo(permission));
}

/** True if the person may launch again what an execution ran: its job, or its own commands. */
export function mayLaunchAgain(execution: { job_id: number | null; labels: Labels }): boolean {
  return mayDo(execution.job_id === null ? "commands:run" : "jobs:execute", execution.labels);
}

/** True if the person may run it again by a form: that of commands shows targets to choose. */
export function mayRunAgain(execution: { job_id: number | null; labels: Labels }): boolean {
  return mayLaunchAgain(execution) && (execution.job_id !== null || mayDo("targets:read"));
}

/** True if the person holds this permission without a scope. */
export function mayDoEverywhere(permission: string): boolean {
  return scopesOf(permission).includes("");
}

/** " that you may see" for people who hold this permission within a scope only, else nothing. */
export function inSight(permission: string): string {
  return mayDo(permission) && !mayDoEverywhere(permission) ? " that you may see" : "";
}

/** What launching a job takes, and following what was launched. */
const LAUNCHING: ReadonlySet<string> = new Set([
  ...["jobs:read", "jobs:execute", "commands:run"],
  ...["executions:read", "executions:cancel", "executions:retry"],
]);

/** The pages of people who only launch. */
const LAUNCHERS: ReadonlySet<string> = new Set([
  ...[
    "/",
    "/executions",
    "/executions/:id",
    "/approvals/:id",
    "/launch",
    "/jobs/:id/launch",
    "/me",
  ],
]);

/** True for people who only launch jobs: the console shows them forms, and what they launched. */
export function onlyLaunches(): boolean {
  const held = Object.keys(me.value?.permissions ?? {});
  return held.includes("jobs:execute") && held.every((permission) => LAUNCHING.has(permission));
}

/** True if there is something to see for the person on this page. */
export function mayOpen({ pattern, needs }: PageRoute): boolean {
  return meets(needs) && (!onlyLaunches() || LAUNCHERS.has(pattern));
}

function meets(need: Need | null): boolean {
  if (need === null) return true;
  if (need.everywhere) return mayDoEverywhere(need.permission);
  return mayDo(need.permission) || (need.or !== undefined && mayDo(need.or));
}

export interface Place extends NavigationEntry {
  /** Where it leads: people who only launch see their own executions. */
  to: string;
}

/** The places of the navigation that the person may go to. */
export function places(): Place[] {
  return NAVIGATION.filter(({ path }) => {
    const route = ROUTES.find((one) => one.pattern === path);
    return route !== undefined && mayOpen(route);
  }).map((entry) => ({
    ...entry,
    to: entry.path === "/executions" && onlyLaunches() ? ownExecutions() : entry.path,
  }));
}

/** The list of executions that the person launched. */
export function ownExecutions(): string {
  const filter = formatTerm({ key: "by", values: [me.value?.name ?? ""], not: false });
  return `/executions?q=${encodeURIComponent(filter)}`;
}

/** Ask for what the person may see; null, without a request, for what they may not. */
export function askIf<T>(permitted: boolean, request: () => Promise<T>): Promise<T | null> {
  return permitted ? request() : Promise.resolve(null);
}

function scopesOf(permission: string): readonly string[] {
  return me.value?.permissions[permission] ?? [];
}

/**
 * True unless the scope surely leaves things with these labels out.
 *
 * Only `key=value` is compared; of any other requirement the server decides.
 */
function mayFit(scope: string, labels: Labels): boolean {
  const requirements = scope.split(",").filter(Boolean);
  return requirements.every((requirement) => {
    const [, key, value] = /^([^=!()\s]+)=([^=()\s]*)$/.exec(requirement.trim()) ?? [];
    return key === undefined || labels[key] === value;
  });
}
