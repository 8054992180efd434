/** A new calendar with one window; more of them with the command or the API. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { CalendarDraft, CalendarKind } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Field, Form, faultOf, NameField } from "../parts/form.tsx";
import { toast } from "../parts/toast.tsx";
import "../style/forms.css";

const WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] as const;
type Weekday = (typeof WEEKDAYS)[number];

interface NewCalendarProps {
  onDone: () => Promise<void>;
  onClose: () => void;
}

export function NewCalendar({ onDone, onClose }: NewCalendarProps) {
  const [name, setName] = useState("");
  const [kind, setKind] = useState<CalendarKind>("blackout");
  const [timezone, setTimezone] = useState(Intl.DateTimeFormat().resolvedOptions().timeZone);
  const [weekdays, setWeekdays] = useState<readonly Weekday[]>([]);
  const [texts, setTexts] = useState({ from: "", until: "", start: "", end: "" });
  const save = async () => {
    const given = Object.entries(texts).filter(([, value]) => value !== "");
    const window = {
      ...Object.fromEntries(given),
      ...(weekdays.length && { weekdays: WEEKDAYS.filter((day) => weekdays.includes(day)) }),
    };
    const body: CalendarDraft = { name, kind, timezone, windows: [window] };
    await ask("POST /calendars", { body });
    toast(`${name} was created. Schedules that name it follow it.`);
    await onDone();
    onClose();
  };
  const text = (field: keyof typeof texts, label: string, hint: string) => (
    <Field label={label} hint={hint}>
      <input
        class="input"
        value={texts[field]}
        onInput={(event) => setTexts({ ...texts, [field]: event.currentTarget.value })}
      />
    </Field>
  );
  return (
    <Dialog title="New calendar" onClose={onClose}>
      <Form verb="Create" onSubmit={save} onCancel={onClose}>
        {(error) => (
          <>
            <NameField name={name} onChange={setName} error={error} />
            <Field label="At these times">
              <select
                class="input"
                value={kind}
                onChange={(event) => setKind(event.currentTarget.value as CalendarKind)}
              >
                <option value="blackout">schedules do not run</option>
                <option value="only">schedules run, and only then</option>
              </select>
            </Field>
            <fieldset class="weekdays">
              <legend>Weekdays (none: all)</legend>
              {WEEKDAYS.map((day) => (
                <label key={day} class="row">
                  <input
                    type="checkbox"
                    checked={weekdays.includes(day)}
                    onChange={() =>
                      setWeekdays(
                        weekdays.includes(day)
                          ? weekdays.filter((one) => one !== day)
                          : [...weekdays, day],
                      )
                    }
                  />
                  {day}
                </label>
              ))}
            </fieldset>
            <div class="pair">
              {text("start", "From", "22:00; empty: midnight")}
              {text("end", "To", "06:00; may be on the next day")}
              {text("from", "From the moment", "2026-12-24T18:00")}
              {text("until", "Until", "2026-12-27T06:00")}
            </div>
            <Field label="Time zone" fault={faultOf(error, "/timezone")}>
              <input
                class="input"
                value={timezone}
                onInput={(event) => setTimezone(event.currentTarget.value)}
              />
            </Field>
          </>
        )}
      </Form>
    </Dialog>
  );
}
