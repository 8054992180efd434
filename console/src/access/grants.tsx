/** Grants: who may what, where; shown and edited. */
import type { Grant, GrantDraft } from "../api/types.ts";
import { Field, Select } from "../parts/form.tsx";
import { Text } from "../parts/text.tsx";

const ROLES = ["viewer", "operator", "developer", "manager", "admin"] as const;

/** What people need who only launch jobs, and stop or retry what they launched: no role has so little. */
const LAUNCHES = ["jobs:read", "jobs:execute", "executions:cancel", "executions:retry"] as const;

/** The choices of the form. Each role, from viewer on, holds what the one before it holds. */
const CHOICES = {
  launcher: "launcher: launches stored jobs, no other commands; sees only own launches",
  viewer: "viewer: sees jobs, executions and targets, changes nothing",
  operator: "operator: launches jobs and any command, cancels, retries, schedules, too",
  developer: "developer: writes jobs and triggers, and uses credentials, too",
  manager: "manager: approves, deletes jobs, changes targets, reads the audit log, too",
  admin: "admin: everything, with users, credentials and overrides",
} as const;
type Choice = keyof typeof CHOICES;

export function Grants({ grants }: { grants: readonly Grant[] }) {
  if (!grants.length) return <span class="dim">none</span>;
  return (
    <span>
      {grants.map((grant, index) => (
        <span key={index}>
          {index > 0 && ", "}
          <b>{fieldsOf(grant)?.role ?? grant.permissions.join(" + ")}</b>
          {grant.scope ? (
            <>
              {" in "}
              <Text of={grant.scope} />
            </>
          ) : (
            ""
          )}
        </span>
      ))}
    </span>
  );
}

/** What a form of one grant holds. */
export interface GrantFields {
  role: Choice;
  scope: string;
}
export const NEW_GRANT: GrantFields = { role: "viewer", scope: "" };

/** Return a grant as the form has it; null if it has other single permissions. */
export function fieldsOf({ role, permissions, scope }: Grant): GrantFields | null {
  const launches = role === null && [...permissions].sort().join() === [...LAUNCHES].sort().join();
  const choice = launches ? "launcher" : ROLES.find((one) => one === role);
  return choice ? { role: choice, scope: scope ?? "" } : null;
}

/** Return the grants of the form; the first one of several others is edited, the rest stays. */
export function grantsOf(fields: GrantFields, others: readonly Grant[] = []): GrantDraft[] {
  const kept = others.map(({ role, permissions, scope }) =>
    role === null ? { permissions, scope } : { role: role as (typeof ROLES)[number], scope },
  );
  const scope = fields.scope.trim();
  const { role } = fields;
  const given = role === "launcher" ? { permissions: [...LAUNCHES], scope } : { role, scope };
  return [given, ...kept];
}

interface GrantFormProps {
  fields: GrantFields;
  onChange: (fields: GrantFields) => void;
}

export function GrantForm({ fields, onChange }: GrantFormProps) {
  return (
    <>
      <Field label="Role">
        <Select
          of={CHOICES}
          value={fields.role}
          onChange={(role) => onChange({ ...fields, role })}
        />
      </Field>
      <Field
        label="Scope"
        hint="Labels that jobs and targets must have, such as env=staging; empty: everywhere"
      >
        <input
          class="input mono"
          value={fields.scope}
          onInput={(event) => onChange({ ...fields, scope: event.currentTarget.value })}
        />
      </Field>
    </>
  );
}
