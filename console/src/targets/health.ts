/** Why a target has its health, in words. */
import type { TargetHealth } from "../api/types.ts";

export function healthReason(health: TargetHealth | null): string {
  if (health === null) return "";
  const words: string[] = [];
  const { circuit, maintenance, last_run, waiting_runs, dead_letters } = health;
  if (maintenance) {
    const by = maintenance.by ? ` (${maintenance.by})` : "";
    words.push(`${maintenance.reason ?? "no reason given"}${by}`);
  }
  if (circuit) {
    const what = circuit.state === "open" ? "logins paused" : "one trial login next";
    words.push(`${what} after ${(circuit.code ?? "errors").replaceAll("_", " ")}`);
  } else if (last_run && health.status === "unhealthy") {
    const code = last_run.code && last_run.code !== last_run.status ? `: ${last_run.code}` : "";
    words.push(`last run ${last_run.status}${code.replaceAll("_", " ")}`);
  }
  if (waiting_runs) words.push(`${waiting_runs} ${waiting_runs === 1 ? "run waits" : "runs wait"}`);
  if (dead_letters) words.push(`${dead_letters} dead ${dead_letters === 1 ? "letter" : "letters"}`);
  return words.join(" · ");
}
