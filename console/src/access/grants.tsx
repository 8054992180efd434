/** Grants: who may what, where; shown and edited. */
import type { Grant, GrantDraft } from "../api/types.ts";
import { Field } from "../parts/form.tsx";
import { Text } from "../parts/text.tsx";

export const ROLES = ["viewer", "operator", "developer", "manager", "admin"] as const;

export function Grants({ grants }: { grants: readonly Grant[] }) {
  if (!grants.length) return <span class="dim">none</span>;
  return (
    <span>
      {grants.map((grant, index) => (
        <span key={index}>
          {index > 0 && ", "}
          <b>{grant.role ?? grant.permissions.join(" + ")}</b>
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
  role: (typeof ROLES)[number];
  scope: string;
}
export const NEW_GRANT: GrantFields = { role: "viewer", scope: "" };

/** Return the grants of the form; the first one of several others is edited, the rest stays. */
export function grantsOf(fields: GrantFields, others: readonly Grant[] = []): GrantDraft[] {
  const kept = others.map(({ role, permissions, scope }) =>
    role === null ? { permissions, scope } : { role: role as GrantFields["role"], scope },
  );
  return [{ role: fields.role, scope: fields.scope.trim() }, ...kept];
}

interface GrantFormProps {
  fields: GrantFields;
  onChange: (fields: GrantFields) => void;
}

export function GrantForm({ fields, onChange }: GrantFormProps) {
  return (
    <>
      <Field label="Role">
        <select
          class="input"
          value={fields.role}
          onChange={(event) =>
            onChange({ ...fields, role: event.currentTarget.value as GrantFields["role"] })
          }
        >
          {ROLES.map((role) => (
            <option key={role}>{role}</option>
          ))}
        </select>
      </Field>
      <Field label="Scope" hint="Labels such as env=staging; empty: everywhere">
        <input
          class="input mono"
          value={fields.scope}
          onInput={(event) => onChange({ ...fields, scope: event.currentTarget.value })}
        />
      </Field>
    </>
  );
}
