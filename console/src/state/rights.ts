/** What the person may do, to leave out what they never can. The server decides about each request. */
import { me } from "./session.ts";

type Labels = Readonly<Record<string, string>>;

/** True if the person holds this permission for these labels; null: for any at all. */
export function mayDo(permission: string, labels: Labels | null = null): boolean {
  const scopes = me.value?.permissions[permission] ?? [];
  return scopes.some((scope) => labels === null || mayFit(scope, labels));
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
