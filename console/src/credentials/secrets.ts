/** Which fields the secret of a credential has, by its type. Others are kept with the command. */
import type { CredentialType } from "../api/types.ts";

export interface SecretField {
  name: "password" | "private_key" | "passphrase" | "value";
  label: string;
  multiline?: boolean;
  optional?: boolean;
  hint?: string;
}

export const SECRET_FIELDS: Partial<Record<CredentialType, readonly SecretField[]>> = {
  password: [{ name: "password", label: "Password" }],
  ssh_key: [
    {
      name: "private_key",
      label: "Private key",
      multiline: true,
      hint: "As ssh-keygen writes it, with its first and last line",
    },
    { name: "passphrase", label: "Passphrase of the key", optional: true },
  ],
  secret: [{ name: "value", label: "Value", multiline: true }],
};

/** Return a type in words. */
export function typeWords(type: CredentialType): string {
  return type.replace("ssh", "SSH").replaceAll("_", " ");
}

/** Types that a form here can make. */
export const TYPES = Object.keys(SECRET_FIELDS) as CredentialType[];

export type Secrets = Partial<Record<SecretField["name"], string>>;

/** Return the secrets for a body: those that were typed, a key with its last line ended. */
export function secretsOf(typed: Secrets): Secrets {
  return Object.fromEntries(
    Object.entries(typed)
      .filter(([, value]) => value !== "")
      .map(([name, value]) => [name, name === "private_key" ? `${value.trim()}\n` : value]),
  );
}
