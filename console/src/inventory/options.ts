/** What holds for all targets of an import, and the request that it makes. */
import type { ImportDraft, ImportedTarget } from "../api/types.ts";
import { labelsOf, listOf } from "../targets/draft.ts";
import { entryOf, type FoundTarget, isEmpty, isObject, ownOf, type Skipped } from "./found.ts";

const LABEL_MAX = 200;

export interface ImportOptions {
  existing: "update" | "skip";
  /** The credential of targets that have no other; empty: none. */
  credential: string;
  /** The credentials of login users. */
  credentials: Readonly<Record<string, string>>;
  groups: string;
  labels: string;
  /** Names of variables that become labels. */
  labelsFrom: string;
  zone: string;
  /** Empty: as for every new target. */
  hostKeyPolicy: "" | "pinned" | "ca" | "accept_new" | "unchecked";
  replaceLabels: boolean;
  replaceGroups: boolean;
}

export const NEW_OPTIONS: ImportOptions = {
  existing: "update",
  credential: "",
  credentials: {},
  groups: "",
  labels: "",
  labelsFrom: "",
  zone: "",
  hostKeyPolicy: "",
  replaceLabels: false,
  replaceGroups: false,
};

/** Return the credential that a target gets; undefined: none. */
function credentialOf(target: FoundTarget, options: ImportOptions): string | undefined {
  const byUser = ownOf(options.credentials, target.user ?? "");
  return target.credential || byUser || options.credential || undefined;
}

/** Return the import of these targets. */
export function importOf(
  found: readonly FoundTarget[],
  options: ImportOptions,
  dry_run: boolean,
): ImportDraft {
  return {
    targets: found.map((target) => withOptions(target, options)),
    existing: options.existing,
    labels: options.replaceLabels ? "replace" : "merge",
    groups: options.replaceGroups ? "replace" : "merge",
    dry_run,
  } as ImportDraft;
}

function withOptions(target: FoundTarget, options: ImportOptions): Record<string, unknown> {
  const own = entryOf(target);
  const named = listOf(options.labelsFrom)
    .map((name) => [name, ownOf(target.variables ?? {}, name)?.slice(0, LABEL_MAX)] as const)
    .filter(([, value]) => value);
  const groups = withGroups(own["groups"], listOf(options.groups));
  const labels = withLabels(own["labels"], {
    ...Object.fromEntries(named),
    ...labelsOf(options.labels),
  });
  const credential = own["credential"] || credentialOf(target, options);
  const zone = own["zone"] || options.zone.trim();
  return {
    ...own,
    ...(credential ? { credential } : {}),
    ...(isEmpty(groups) ? {} : { groups }),
    ...(isEmpty(labels) ? {} : { labels }),
    ...(zone ? { zone } : {}),
    ...(options.hostKeyPolicy && { host_key_policy: options.hostKeyPolicy }),
  };
}

/** Return a target's groups and those of all; what is no list stays, for the service to refuse. */
function withGroups(own: unknown, all: readonly string[]): unknown {
  const given = own ?? [];
  return Array.isArray(given) ? [...new Set([...given, ...all])] : given;
}

/** The same for labels. */
function withLabels(own: unknown, all: Readonly<Record<string, unknown>>): unknown {
  const given = own ?? {};
  return isObject(given) ? { ...given, ...all } : given;
}

/** Return the login users of the targets, those of most targets first. */
export function usersOf(found: readonly FoundTarget[]): string[] {
  const counts = new Map<string, number>();
  for (const { user, credential } of found)
    if (user && !credential) counts.set(user, (counts.get(user) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([user]) => user);
}

/** Return the variables of which labels can be made. */
export function variablesOf(found: readonly FoundTarget[]): string[] {
  const names = found.flatMap((one) => Object.keys(one.variables ?? {}));
  return [...new Set(names)].filter((name) => !name.startsWith("ansible_")).sort();
}

/**
 * Return the number of new targets that get no credential.
 *
 * Those on the worker need none, those that are there keep theirs. `planned`: what the import
 * would do to each of them.
 */
export function countBare(
  found: readonly FoundTarget[],
  options: ImportOptions,
  planned: readonly Pick<ImportedTarget, "position" | "outcome">[],
): number {
  const isBare = (one: FoundTarget) =>
    one.transport !== "local" && !one.written && !credentialOf(one, options);
  return planned.filter(
    ({ position, outcome }) => outcome === "created" && isBare(found[position]!),
  ).length;
}

/** Return the private keys that the text names: a browser cannot read them. */
export function keysLeft(found: readonly FoundTarget[], options: ImportOptions): Skipped[] {
  const keys = found
    .filter((one) => one.key && !credentialOf(one, options))
    .map((one) => `the key ${one.key} of ${one.user ?? "root"}`);
  return [...new Set(keys)].map((what) => ({
    what,
    reason: "a browser cannot read it: store it on the page Credentials, and choose it above",
    target: false,
  }));
}
