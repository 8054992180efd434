/** Due times of a schedule, also on the clock of its zone if another is shown, and what closes them. */
import type { SchedulePreview } from "../api/types.ts";
import { localWords, zoneOf } from "../parts/moment.ts";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { taste } from "../state/taste.ts";

export function DueTimes({ found, zone }: { found: SchedulePreview; zone: string | null }) {
  return (
    <ul class="entries">
      {found.moments.map((moment) => (
        <li key={moment.utc}>
          <Time at={moment.utc} due />
          {zone !== null && zone !== zoneOf(taste.value.clock) && (
            <span class="dim">
              {localWords(moment.local)} in {zone}
            </span>
          )}
          {moment.closed && (
            <span class="tone hold">
              <Text of={`closed by ${moment.closed.calendar}: ${moment.closed.reason}`} />
            </span>
          )}
        </li>
      ))}
      {found.notes.map((note) => (
        <li key={note} class="dim">
          <Text of={note} />
        </li>
      ))}
    </ul>
  );
}
