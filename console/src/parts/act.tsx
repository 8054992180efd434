/** Buttons by what an object's `can` and `cannot` say. */
import type { ComponentChildren } from "preact";
import { toast } from "./toast.tsx";

/** A single object of the API, with what the person may do. */
export interface Actionable {
  can: readonly string[];
  cannot: Readonly<Record<string, { detail: string }>>;
}

/** True if the person's permissions have this action; it may be refused now all the same. */
export function hasAction(of: Actionable, action: string): boolean {
  return of.can.includes(action) || action in of.cannot;
}

interface ActProps {
  of: Actionable;
  action: string;
  kind?: "primary" | "danger" | "";
  small?: boolean;
  /** Something is being done. */
  busy?: boolean;
  onAct: () => void;
  children: ComponentChildren;
}

/** A button that is not there if it never works, and says why if it does not work now. */
export function Act(props: ActProps) {
  const { of, action, kind = "", small = false, busy = false, onAct, children } = props;
  if (!hasAction(of, action)) return null;
  const why = of.cannot[action]?.detail;
  return (
    <button
      type="button"
      class={`button ${kind} ${small ? "small" : ""}`}
      disabled={busy}
      aria-busy={busy}
      aria-disabled={why !== undefined}
      title={why}
      onClick={() => (why === undefined ? onAct() : toast(why, "bad"))}
    >
      {children}
    </button>
  );
}
