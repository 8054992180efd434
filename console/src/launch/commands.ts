/** The commands of a preview: equal ones once. */
import type { Preview } from "../api/types.ts";
import { inNameOrder } from "../parts/natural-order.ts";

export interface SharedCommand {
  action: string;
  command: string;
  /** The names of the targets on which it runs, in their order. */
  targets: string[];
}

/** Return each command once, in the order of the preview. */
export function byCommand(commands: Preview["commands"]): SharedCommand[] {
  const found = new Map<string, SharedCommand>();
  for (const { action, command, target } of commands) {
    const key = `${action} ${command}`;
    const one = found.get(key);
    if (one) one.targets.push(target);
    else found.set(key, { action, command, targets: [target] });
  }
  return [...found.values()].map((one) => ({
    ...one,
    targets: inNameOrder(one.targets, (name) => name),
  }));
}
