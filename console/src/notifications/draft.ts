/** The fields of a notification rule's form, as typed, and the rule that they make; rules in words. */
import type { NotificationRule } from "../api/types.ts";
import { numberOr } from "../parts/counts.ts";
import { listOf } from "../targets/draft.ts";

export type Channel = NotificationRule["channel"];
export type Told = NonNullable<NotificationRule["on"]>[number];

/** The events of a rule, as its form says them. */
export const EVENTS: Readonly<Record<Told, string>> = {
  failed: "it failed, wholly or partly",
  recovered: "it is back to normal",
  completed: "it completed",
  late: "it was launched late",
  missed: "a due time was missed",
  approval_needed: "it needs an approval",
};
export const CHANNELS: Readonly<Record<Channel, string>> = {
  email: "e-mail",
  webhook: "a webhook",
  service: "the Notification Service",
  apprise: "apprise (chat, pager, …)",
};
/** What the recipients are, by channel. */
export const RECIPIENTS: Readonly<Record<Channel, { label: string; hint: string }>> = {
  email: { label: "Addresses", hint: "Separated by commas: ops@example.org" },
  webhook: { label: "Webhooks", hint: "Their names, separated by commas" },
  service: { label: "Recipients", hint: "As the Notification Service knows them" },
  apprise: { label: "Credentials", hint: "Names of secrets that hold a URL, such as slack://…" },
};
/** The names that a text may use. */
export const NAMES: readonly string[] = [
  ...["summary", "details", "failures", "next_steps", "held_back", "link", "reason", "event"],
  ...["time", "job.name", "schedule.name", "targets.total", "targets.failed", "execution.id"],
  ...["execution.number", "execution.status", "execution.requested_by"],
];

export interface RuleFields {
  channel: Channel;
  /** The recipients by channel, as typed: another choice of channel keeps them. */
  to: Readonly<Record<Channel, string>>;
  channelId: string;
  on: readonly Told[];
  lateAfter: string;
  onlyChanges: boolean;
  /** A duration; empty: each message by itself. */
  digest: string;
  perHour: string;
  /** Empty: the built-in text. */
  subject: string;
  text: string;
}

/** Return the fields of a rule, or of a new one. */
export function fieldsOf(rule: NotificationRule | null): RuleFields {
  const channel = rule?.channel ?? "email";
  const nobody = { email: "", webhook: "", service: "", apprise: "" };
  return {
    channel,
    to: { ...nobody, [channel]: (rule?.to ?? []).join(", ") },
    channelId: rule?.channel_id ?? "",
    on: rule?.on ?? ["failed", "recovered"],
    lateAfter: String(rule?.late_after ?? "60s"),
    onlyChanges: rule?.quiet?.only_changes ?? false,
    digest: String(rule?.quiet?.digest ?? ""),
    perHour: String(rule?.quiet?.max_per_hour ?? ""),
    subject: rule?.subject ?? "",
    text: rule?.text ?? "",
  };
}

/** Return the rule that the fields make, without what is the default. */
export function ruleOf(fields: RuleFields): NotificationRule {
  const digest = fields.digest.trim();
  const quiet = {
    ...(fields.onlyChanges && { only_changes: true }),
    ...(digest && { digest }),
    ...(fields.perHour.trim() && { max_per_hour: numberOr(fields.perHour) }),
  };
  const rule = {
    on: fields.on,
    channel: fields.channel,
    to: listOf(fields.to[fields.channel]),
    ...(fields.channel === "service" &&
      fields.channelId.trim() && { channel_id: fields.channelId.trim() }),
    ...(fields.on.includes("late") && { late_after: fields.lateAfter.trim() || "60s" }),
    ...(Object.keys(quiet).length && { quiet }),
    ...(fields.subject.trim() && { subject: fields.subject.trim() }),
    ...(fields.text.trim() && { text: fields.text }),
  };
  return rule as unknown as NotificationRule;
}

const SHORT: Readonly<Record<Told, string>> = {
  failed: "failed",
  recovered: "back to normal",
  completed: "completed",
  late: "late",
  missed: "missed",
  approval_needed: "approval needed",
};

/** Return the events of a rule: `failed, back to normal`. */
export function eventWords(rule: NotificationRule): string {
  return (rule.on ?? ["failed", "recovered"]).map((one) => SHORT[one]).join(", ");
}

/** Return how often a rule sends: `only changes, at most 10 an hour`. */
export function quietWords({ quiet }: NotificationRule): string {
  const words = [
    quiet?.only_changes && "only changes",
    quiet?.digest && `one message for ${quiet.digest}`,
    quiet?.max_per_hour && `at most ${quiet.max_per_hour} an hour`,
  ];
  return words.filter(Boolean).join(", ") || "each time";
}

/** True if the rule has a text of its own: the command that tries a rule takes it from a file. */
export const hasOwnText = ({ text }: NotificationRule): boolean => Boolean(text);

/** Return the words of the command that tries a rule without a text of its own. */
export function trialWords(rule: NotificationRule): string[] {
  const options = [
    ...(rule.channel_id ? ["--channel-id", rule.channel_id] : []),
    ...(rule.subject ? ["--subject", rule.subject] : []),
  ];
  return ["opsjobs", "notifications", "test", rule.channel, ...rule.to, ...options];
}
