/** Some days of the week. */
export const WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] as const;
export type Weekday = (typeof WEEKDAYS)[number];

interface WeekdaysProps {
  legend: string;
  chosen: readonly Weekday[];
  onChange: (chosen: readonly Weekday[]) => void;
  fault?: string | null;
}

export function Weekdays({ legend, chosen, onChange, fault }: WeekdaysProps) {
  const toggle = (day: Weekday, on: boolean) =>
    onChange(WEEKDAYS.filter((one) => (one === day ? on : chosen.includes(one))));
  return (
    <fieldset class="weekdays">
      <legend>{legend}</legend>
      {WEEKDAYS.map((day) => (
        <label key={day} class="row">
          <input
            type="checkbox"
            checked={chosen.includes(day)}
            onChange={(event) => toggle(day, event.currentTarget.checked)}
          />
          {day}
        </label>
      ))}
      {fault && <p class="small fault">{fault}</p>}
    </fieldset>
  );
}
