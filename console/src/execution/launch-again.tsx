/** Run the actions of an ad-hoc execution again: in the launch form, to look at and to change. */
import { launchAgain } from "../launch/again.ts";
import { Link } from "../router.tsx";
import type { ExecutionView } from "./view.ts";

interface LaunchAgainProps {
  view: ExecutionView;
  /** Rows of the targets; null: all of them. */
  rows: Uint32Array | null;
  label: string;
  small?: boolean;
}

export function LaunchAgain({ view, rows, label, small = false }: LaunchAgainProps) {
  const spec = view.spec.value;
  const names = view.runs.value?.name;
  if (!spec || !names) return null;
  const targets = rows ? [...rows].map((row) => names[row]!) : names;
  const again = launchAgain(spec, targets);
  const look = small ? "button small" : "button";
  if ("query" in again)
    return (
      <Link class={look} to={`/launch?${again.query}`}>
        {label}
      </Link>
    );
  return (
    <button type="button" class={look} disabled title={again.why}>
      {label}
    </button>
  );
}
