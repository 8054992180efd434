/** The fields of a target's form, as typed, and the draft that they make. */
import type { ShownTarget, TargetDraft } from "../api/types.ts";
import { numberOr } from "../parts/counts.ts";

export type Transport = NonNullable<TargetDraft["transport"]>;

export interface TargetFields {
  name: string;
  host: string;
  /** Empty: the port of the transport. */
  port: string;
  transport: Transport;
  platform: NonNullable<TargetDraft["platform"]>;
  credential: string;
  jump: string;
  /** key=value, with commas between them. */
  labels: string;
  groups: string;
  zone: string;
  slots: string;
  hostKeyPolicy: NonNullable<TargetDraft["host_key_policy"]>;
  durable: NonNullable<TargetDraft["durable"]>;
  scheme: "https" | "http";
  auth: string;
  engine: "winrs" | "psrp";
  /** Trusted certificates: of a CA, as PEM; or the fingerprint of the only one. */
  ca: string;
  fingerprint: string;
}

export const NEW_TARGET: TargetFields = {
  name: "",
  host: "",
  port: "",
  transport: "ssh",
  platform: "linux",
  credential: "",
  jump: "",
  labels: "",
  groups: "",
  zone: "default",
  slots: "10",
  hostKeyPolicy: "pinned",
  durable: "auto",
  scheme: "https",
  auth: "negotiate",
  engine: "winrs",
  ca: "",
  fingerprint: "",
};

/** Return the fields of a stored target. */
export function fieldsOf(target: ShownTarget): TargetFields {
  const { winrm } = target;
  return {
    ...NEW_TARGET,
    name: target.name,
    host: target.host,
    port: String(target.port),
    transport: target.transport,
    platform: target.platform as TargetFields["platform"],
    credential: target.credential ?? "",
    jump: target.jump ?? "",
    labels: labelWords(target.labels),
    groups: target.groups.join(", "),
    zone: target.zone,
    slots: String(target.slots),
    hostKeyPolicy: target.host_key_policy as TargetFields["hostKeyPolicy"],
    durable: target.durable as TargetFields["durable"],
    ...(winrm && {
      scheme: winrm.scheme as TargetFields["scheme"],
      auth: winrm.auth,
      engine: winrm.engine as TargetFields["engine"],
      ca: winrm.ca ?? "",
      fingerprint: winrm.fingerprint ?? "",
    }),
  };
}

export function labelWords(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");
}

/** Return the labels of a text; what is no `key=value` is a key with an empty value. */
export function labelsOf(text: string): Record<string, string> {
  const pairs = listOf(text).map((one) => {
    const at = one.indexOf("=");
    return at < 0 ? [one, ""] : [one.slice(0, at).trim(), one.slice(at + 1).trim()];
  });
  return Object.fromEntries(pairs);
}

export function listOf(text: string): string[] {
  return text
    .split(",")
    .map((one) => one.trim())
    .filter(Boolean);
}

/**
 * Return the draft that the fields make.
 *
 * `stored`: the target that it replaces; what the form does not show stays as it is there. Its
 * version goes along, so that a change by somebody else is refused, not overwritten.
 */
export function draftOf(fields: TargetFields, stored: ShownTarget | null): TargetDraft {
  const draft: Record<string, unknown> = {
    name: fields.name.trim(),
    host: fields.host.trim(),
    transport: fields.transport,
    credential: fields.credential || null,
    labels: labelsOf(fields.labels),
    groups: listOf(fields.groups),
    zone: fields.zone.trim() || "default",
    slots: numberOr(fields.slots),
    durable: fields.durable,
  };
  if (fields.port.trim()) draft["port"] = numberOr(fields.port);
  if (fields.transport === "winrm") draft["winrm"] = winrmOf(fields, stored);
  else {
    draft["platform"] = fields.platform;
    draft["jump"] = fields.jump.trim() || null;
    draft["host_key_policy"] = fields.hostKeyPolicy;
  }
  if (stored) {
    draft["version"] = stored.version;
    if (stored.transport === fields.transport) draft["host_keys"] = stored.host_keys;
  }
  return draft as unknown as TargetDraft;
}

function winrmOf(fields: TargetFields, stored: ShownTarget | null): Record<string, unknown> {
  const isHttps = fields.scheme === "https";
  return {
    ...stored?.winrm,
    scheme: fields.scheme,
    auth: fields.auth,
    engine: fields.engine,
    ca: isHttps ? fields.ca.trim() || null : null,
    fingerprint: isHttps ? fields.fingerprint.trim() || null : null,
    ...(fields.engine === "winrs" && { configuration: null }),
  };
}
