/** What the person may do, by their grants: to leave out what they never can. The server decides. */
import { me } from "./session.ts";

type Labels = Readonly<Record<string, string>>;

/** True if a grant of the person has this permission for these labels; null: for any at all. */
export function mayDo(permission: string, labels: Labels | null): boolean {
  const grants = me.value?.grants ?? [];
  return grants.some(
    ({ permissions, scope }) =>
      permissions.some((held) => held === permission || held === "*") &&
      (labels === null || mayFit(scope, labels)),
  );
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
