/** Webhooks in words. */
import type { Webhook } from "../api/types.ts";

type Standing = Pick<Webhook, "enabled" | "disabled_reason" | "failures">;

/** Return the state of a webhook, and its words. */
export function webhookState(webhook: Standing): { state: string; label: string } {
  if (!webhook.enabled)
    return {
      state: "disabled",
      label: webhook.disabled_reason ? "disabled by opsjobs" : "disabled",
    };
  if (webhook.failures === 0) return { state: "ok", label: "ok" };
  const times = webhook.failures === 1 ? "once" : `${webhook.failures.toLocaleString("en")} times`;
  return { state: "failed", label: `failed ${times} in a row` };
}
