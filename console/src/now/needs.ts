/** What needs this person, as facts for a strip. What they cannot answer is left out. */
import { type Answer, ask } from "../api/ask.ts";
import { askedFor } from "../execution/name.ts";
import { countWords } from "../parts/counts.ts";
import type { Fact } from "../parts/strip.tsx";
import { askIf, mayDo, mayDoEverywhere } from "../state/rights.ts";

interface Needs {
  approvals: Answer<"GET /approvals"> | null;
  letters: Answer<"GET /dead-letters"> | null;
  circuits: Answer<"GET /circuits"> | null;
  status: Answer<"GET /status"> | null;
}

/** Load all of it; null for what the person may not see or answer. */
export async function loadNeeds(signal: AbortSignal): Promise<Needs> {
  const first = { page: 1, size: 1 };
  const [approvals, letters, circuits, status] = await Promise.all([
    askIf(mayDo("approvals:decide") && mayDo("executions:read"), () =>
      ask("GET /approvals", { query: { ...first, can: "approve" }, signal }),
    ),
    askIf(mayDo("dead_letters:manage") && mayDo("executions:read"), () =>
      ask("GET /dead-letters", { query: first, signal }),
    ),
    askIf(mayDo("system:read") && mayDo("targets:read"), () =>
      ask("GET /circuits", { query: { ...first, state: ["open"] }, signal }),
    ),
    askIf(mayDoEverywhere("system:read"), () => ask("GET /status", { signal })),
  ]);
  return { approvals, letters, circuits, status };
}

/** Return the facts, what waits for a decision first. `timeOf` writes a moment. */
export function factsOf(needs: Needs, timeOf: (at: string) => string): Fact[] {
  return [
    ...approvalFacts(needs.approvals, timeOf),
    ...letterFacts(needs.letters),
    ...circuitFacts(needs.circuits, timeOf),
    ...statusFacts(needs.status),
  ];
}

function approvalFacts(found: Needs["approvals"], timeOf: (at: string) => string): Fact[] {
  const first = found?.items[0];
  if (!first) return [];
  const until = first.expires_at ? ` (until ${timeOf(first.expires_at)})` : "";
  const about = askedFor(first);
  const total = found?.total ?? 1;
  return [
    {
      tone: "hold",
      text: `${countWords(total, "approval")} for you, newest: ${about}${until}`,
      to: total === 1 ? `/approvals/${first.id}` : "/approvals?q=can:approve",
    },
  ];
}

function letterFacts(found: Needs["letters"]): Fact[] {
  if (!found?.total) return [];
  return [{ tone: "lost", text: countWords(found.total, "dead letter"), to: "/dead-letters" }];
}

function circuitFacts(found: Needs["circuits"], timeOf: (at: string) => string): Fact[] {
  const first = found?.items[0];
  if (!first) return [];
  const name = first.target.name ?? first.target.id;
  const until = first.until ? `, no logins until ${timeOf(first.until)}` : "";
  const more = (found?.total ?? 1) - 1;
  return [
    {
      tone: "warn",
      text: `${name}: ${first.error?.message ?? "logins fail"}${until}${more > 0 ? `, and ${countWords(more, "more target")}` : ""}`,
      to: more > 0 ? "/targets?q=health:unhealthy" : `/targets/${encodeURIComponent(name)}`,
    },
  ];
}

function statusFacts(status: Needs["status"]): Fact[] {
  if (!status) return [];
  const facts: Fact[] = status.reasons.map((reason) => ({
    tone: "warn",
    text: reason.detail,
    to: "/system",
  }));
  const lost = status.workers.filter((worker) => !worker.alive);
  if (lost.length)
    facts.push({
      tone: "lost",
      text: `${countWords(lost.length, "worker")} lost: ${lost.map((one) => one.name).join(", ")}`,
      to: "/system",
    });
  if (status.schedules.late)
    facts.push({
      tone: "warn",
      text: `${countWords(status.schedules.late, "schedule")} late`,
      to: "/schedules",
    });
  return facts;
}
