/** The fields that say when a schedule runs. */
import { Field, TextField } from "../parts/form.tsx";
import { Weekdays } from "../parts/weekdays.tsx";
import { FIELDS_OF, KINDS, type Kind, type ScheduleFields } from "./draft.ts";

interface WhenFieldsProps {
  fields: ScheduleFields;
  onChange: (some: Partial<ScheduleFields>) => void;
  /** What the server said about a field of the draft. */
  fault: (name: string) => string | null;
}

const UNITS: Partial<Record<Kind, string>> = {
  daily: "days",
  weekly: "weeks",
  monthly: "months",
  hours: "hours",
  minutes: "minutes",
};

export function WhenFields({ fields, onChange, fault }: WhenFieldsProps) {
  const shown = FIELDS_OF[fields.kind];
  return (
    <>
      <Field label="Runs" fault={fault("type") ?? fault("every")}>
        <select
          class="input"
          value={fields.kind}
          onChange={(event) => onChange({ kind: event.currentTarget.value as Kind })}
        >
          {Object.entries(KINDS).map(([kind, words]) => (
            <option key={kind} value={kind}>
              {words}
            </option>
          ))}
        </select>
      </Field>
      {shown.includes("cron") && (
        <TextField
          label="Cron expression"
          hint="Minute, hour, day, month, weekday: 30 2 * * 1-5 is 02:30 on working days"
          mono
          required
          value={fields.cron}
          onChange={(cron) => onChange({ cron })}
          fault={fault("cron")}
        />
      )}
      {shown.includes("at") && <At fields={fields} onChange={onChange} fault={fault} />}
      {shown.includes("weekdays") && (
        <Weekdays
          legend="Weekdays"
          chosen={fields.weekdays}
          onChange={(weekdays) => onChange({ weekdays })}
          fault={fault("weekdays")}
        />
      )}
      {shown.includes("day") && (
        <TextField
          label="Day of the month"
          hint="1 to 31, last, 2nd tue or last fri"
          required
          value={fields.day}
          onChange={(day) => onChange({ day })}
          fault={fault("day")}
        />
      )}
      <div class="pair">
        {shown.includes("time") && (
          <Field label="At" fault={fault("time")}>
            <input
              class="input"
              type="time"
              required
              value={fields.time}
              onInput={(event) => onChange({ time: event.currentTarget.value })}
            />
          </Field>
        )}
        {shown.includes("interval") && (
          <TextField
            label={`Interval in ${UNITS[fields.kind]}`}
            required
            value={fields.interval}
            onChange={(interval) => onChange({ interval })}
            fault={fault("interval")}
          />
        )}
      </div>
      <Zone {...{ fields, onChange, fault }} />
    </>
  );
}

/** A time on the clock of the zone; an instant with an offset, as the API may have stored, as text. */
function At({ fields, onChange, fault }: WhenFieldsProps) {
  const isInstant = /(Z|[+-]\d\d:\d\d)$/.test(fields.at);
  const onInput = (event: { currentTarget: { value: string } }) =>
    onChange({ at: event.currentTarget.value });
  return (
    <Field
      label="At"
      hint={isInstant ? "An instant with its offset" : "On the clock of the time zone"}
      fault={fault("at") ?? fault("local_time")}
    >
      {isInstant ? (
        <input class="input" required value={fields.at} onInput={onInput} />
      ) : (
        <input class="input" type="datetime-local" required value={fields.at} onInput={onInput} />
      )}
    </Field>
  );
}

const ZONES: readonly string[] = Intl.supportedValuesOf("timeZone");

function Zone({ fields, onChange, fault }: WhenFieldsProps) {
  return (
    <>
      <TextField
        label="Time zone"
        hint="Such as Europe/Berlin"
        list="time-zones"
        value={fields.timezone}
        onChange={(timezone) => onChange({ timezone })}
        fault={fault("timezone")}
      />
      <datalist id="time-zones">
        {["UTC", ...ZONES].map((zone) => (
          <option key={zone} value={zone} />
        ))}
      </datalist>
    </>
  );
}
