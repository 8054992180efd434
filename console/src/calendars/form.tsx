/** A new calendar, or a changed one: a name, what it means, and its windows. */
import { useState } from "preact/hooks";
import { ask, type RequestError } from "../api/ask.ts";
import { asRead } from "../api/stale.ts";
import type { Calendar, CalendarDraft, CalendarKind, Window } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { faultIn, faultOf, Field, Form, NameField, Select, TextField } from "../parts/form.tsx";
import { toast } from "../parts/toast.tsx";
import { type Weekday, Weekdays } from "../parts/weekdays.tsx";
import { listOf } from "../targets/draft.ts";
import "../style/forms.css";

const KINDS: Record<CalendarKind, string> = {
  blackout: "schedules do not run",
  only: "schedules run, and only then",
};

const TEXTS = ["name", "from", "until", "start", "end"] as const;
const LISTS = ["dates", "yearly"] as const;
type WindowFields = { weekdays: readonly Weekday[] } & Record<
  (typeof TEXTS)[number] | (typeof LISTS)[number],
  string
>;

const NEW_WINDOW: WindowFields = {
  ...{ weekdays: [], name: "", from: "", until: "", start: "", end: "", dates: "", yearly: "" },
};

function fieldsOf(window: Window): WindowFields {
  return {
    ...NEW_WINDOW,
    ...Object.fromEntries(TEXTS.map((name) => [name, window[name] ?? ""])),
    ...Object.fromEntries(LISTS.map((name) => [name, (window[name] ?? []).join(", ")])),
    weekdays: (window.weekdays ?? []) as Weekday[],
  };
}

function windowOf(fields: WindowFields): Record<string, unknown> {
  const texts = TEXTS.filter((name) => fields[name].trim()).map((name) => [
    name,
    fields[name].trim(),
  ]);
  const lists = LISTS.filter((name) => fields[name].trim()).map((name) => [
    name,
    listOf(fields[name]),
  ]);
  const days = fields.weekdays.length ? { weekdays: fields.weekdays } : {};
  return { ...Object.fromEntries([...texts, ...lists]), ...days };
}

interface CalendarFormProps {
  /** Null: a new one. */
  calendar: Calendar | null;
  onClose: () => void;
}

export function CalendarForm({ calendar, onClose }: CalendarFormProps) {
  const [name, setName] = useState(calendar?.name ?? "");
  const [description, setDescription] = useState(calendar?.description ?? "");
  const [kind, setKind] = useState<CalendarKind>(calendar?.kind ?? "blackout");
  const [timezone, setTimezone] = useState(
    calendar?.timezone ?? Intl.DateTimeFormat().resolvedOptions().timeZone,
  );
  const [windows, setWindows] = useState(calendar?.windows.map(fieldsOf) ?? [NEW_WINDOW]);
  const save = async () => {
    const body = {
      ...{ name, description, kind, timezone },
      windows: windows.map(windowOf),
      ...(calendar && asRead(calendar)),
    } as CalendarDraft;
    if (calendar) await ask("PUT /calendars/{id}", { path: { id: String(calendar.id) }, body });
    else await ask("POST /calendars", { body });
    toast(`${name} was ${calendar ? "changed" : "created"}. Schedules that name it follow it.`);
    onClose();
  };
  return (
    <Dialog title={calendar ? `Change ${calendar.name}` : "New calendar"} wide onClose={onClose}>
      <Form verb={calendar ? "Save" : "Create"} onSubmit={save} onCancel={onClose}>
        {(error) => (
          <>
            <NameField name={name} onChange={setName} error={error} />
            <div class="pair">
              <Field label="At these times">
                <Select of={KINDS} value={kind} onChange={setKind} />
              </Field>
              <TextField
                label="Time zone"
                hint="Such as Europe/Berlin"
                value={timezone}
                onChange={setTimezone}
                fault={faultOf(error, "/timezone")}
              />
            </div>
            <TextField
              label="Description"
              value={description}
              onChange={setDescription}
              fault={faultOf(error, "/description")}
            />
            {windows.map((window, at) => (
              <WindowPart
                key={at}
                at={at}
                window={window}
                error={error}
                onChange={(some) =>
                  setWindows(windows.map((one, n) => (n === at ? { ...one, ...some } : one)))
                }
                onRemove={
                  windows.length > 1 ? () => setWindows(windows.filter((_, n) => n !== at)) : null
                }
              />
            ))}
            <div>
              <button
                type="button"
                class="button small"
                onClick={() => setWindows([...windows, NEW_WINDOW])}
              >
                Add times
              </button>
            </div>
          </>
        )}
      </Form>
    </Dialog>
  );
}

interface WindowPartProps {
  at: number;
  window: WindowFields;
  error: RequestError | null;
  onChange: (some: Partial<WindowFields>) => void;
  onRemove: (() => void) | null;
}

function WindowPart({ at, window, error, onChange, onRemove }: WindowPartProps) {
  const place = `/windows/${at}`;
  const whole = faultOf(error, place);
  const part = (name: Exclude<keyof WindowFields, "weekdays">, label: string, hint: string) => (
    <TextField
      label={label}
      hint={hint}
      value={window[name]}
      onChange={(value) => onChange({ [name]: value })}
      fault={faultIn(error, `${place}/${name}`)}
    />
  );
  return (
    <fieldset class="form conditions">
      <legend>Times {at + 1}</legend>
      <Weekdays
        legend="Weekdays (none: all)"
        chosen={window.weekdays}
        onChange={(weekdays) => onChange({ weekdays })}
        fault={faultOf(error, `${place}/weekdays`)}
      />
      <div class="pair">
        {part("start", "From", "22:00; empty: midnight")}
        {part("end", "To", "06:00; may be on the next day")}
        {part("dates", "On the days", "2026-12-24, 2026-12-31")}
        {part("yearly", "Each year on", "12-24, or 12-24..01-02")}
        {part("from", "From the moment", "2026-12-24T18:00")}
        {part("until", "Until", "2026-12-27T06:00")}
      </div>
      {part("name", "Reason (optional)", "Such as freeze: it is shown where it closes")}
      {whole && <p class="small fault">{whole}</p>}
      {onRemove && (
        <div>
          <button
            type="button"
            class="button small"
            aria-label={`Remove times ${at + 1}`}
            onClick={onRemove}
          >
            Remove
          </button>
        </div>
      )}
    </fieldset>
  );
}
