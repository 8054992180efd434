/** A new schedule of a job, or a changed one, with its next due times while typing. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Job, Schedule } from "../api/types.ts";
import { ParameterFields } from "../launch/parameter-fields.tsx";
import { isSecret, textOf, type Typed, valuesOf } from "../launch/parameters.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Check, Field, Form, faultOf, Select, TextField } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { useSettled } from "../parts/picker.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { type Resource, useResource } from "../state/resource.ts";
import { draftOf, fieldsOf, newFields, type ScheduleFields, saysWhen } from "./draft.ts";
import { DueTimes } from "./due-times.tsx";
import { WhenFields } from "./when-fields.tsx";
import "../style/forms.css";
import "../style/launch.css";

const PREVIEWED = 5;
const MISFIRES = {
  run_once: "run once, late",
  run_all: "run all of them, late",
  skip: "skip it",
} as const;
const OVERLAPS = {
  skip: "skip this due time",
  queue: "wait until it has ended",
  allow: "run at the same time",
  cancel_previous: "cancel it, then run",
} as const;

interface ScheduleFormProps {
  job: Pick<Job, "id" | "name" | "parameters">;
  /** Null: a new one. */
  schedule: Schedule | null;
  onDone: (schedule: Schedule) => void;
  onClose: () => void;
}

export function ScheduleForm({ job, schedule, onDone, onClose }: ScheduleFormProps) {
  // As it was when the form opened: a change by somebody else meanwhile is refused, not overwritten.
  const [stored] = useState(schedule);
  const [fields, setFields] = useState(() => (stored ? fieldsOf(stored) : newFields(hereOrUtc())));
  const asked = job.parameters.filter((one) => !isSecret(one) && !one.from_credential);
  const [typed, setTyped] = useState<Typed>(() => typedOf(asked, stored));
  const [touched, setTouched] = useState<ReadonlySet<string>>(new Set());
  const change = (some: Partial<ScheduleFields>) => setFields({ ...fields, ...some });
  const draft = draftOf(fields, valuesOf({ parameters: asked }, typed), stored);
  const preview = usePreview(saysWhen(fields) ? JSON.stringify(draft) : "", stored);
  const save = async () => {
    setTouched(new Set(asked.map((one) => one.name)));
    const done = stored
      ? await ask("PUT /schedules/{id}", {
          path: { id: String(stored.id) },
          body: draft,
          match: `"${stored.version}"`,
        })
      : await ask("POST /jobs/{id}/schedules", { path: { id: String(job.id) }, body: draft });
    toast(`${done.name} was ${stored ? "changed" : "scheduled"}`);
    onDone(done);
  };
  return (
    <Dialog
      title={stored ? `Change ${stored.name}` : `New schedule of ${job.name}`}
      wide
      onClose={onClose}
    >
      <Form verb={stored ? "Save" : "Schedule"} onSubmit={save} onCancel={onClose}>
        {(error) => {
          const fault = (name: string) =>
            faultOf(error, `/${name}`) ?? faultOf(preview.error.value, `/schedule/${name}`);
          return (
            <div class="launch">
              <div class="form">
                <WhenFields fields={fields} onChange={change} fault={fault} />
                <Policies fields={fields} onChange={change} fault={fault} />
                {asked.length > 0 && (
                  <fieldset class="form picker">
                    <legend>Parameters (empty: the default)</legend>
                    <ParameterFields
                      parameters={asked}
                      typed={typed}
                      touched={touched}
                      onInput={(parameter, text) => {
                        setTyped({ ...typed, [parameter.name]: text });
                        setTouched(new Set([...touched, parameter.name]));
                      }}
                    />
                  </fieldset>
                )}
              </div>
              <Preview preview={preview} fields={fields} />
            </div>
          );
        }}
      </Form>
    </Dialog>
  );
}

function hereOrUtc(): string {
  return Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
}

function typedOf(parameters: Job["parameters"], schedule: Schedule | null): Typed {
  const given = (schedule?.parameters ?? {}) as Record<string, never>;
  return Object.fromEntries(parameters.map(({ name }) => [name, textOf(given[name])]));
}

type Answer = Awaited<ReturnType<typeof ask<"POST /schedules/preview">>>;

/** Ask for the due times of a draft when typing has paused; null for none. */
function usePreview(draft: string, stored: Schedule | null): Resource<Answer | null> {
  const settled = useSettled(draft, draft);
  return useResource(
    async (signal) => {
      if (!settled) return null;
      const of = { schedule: JSON.parse(settled), ...(stored && { id: stored.id }) };
      return ask("POST /schedules/preview", { body: { ...of, count: PREVIEWED }, signal });
    },
    [settled],
  );
}

interface PreviewProps {
  preview: Resource<Answer | null>;
  fields: ScheduleFields;
}

function Preview({ preview, fields }: PreviewProps) {
  return (
    <Panel title="It runs" flush>
      <div aria-live="polite">
        {saysWhen(fields) ? (
          <Loaded resource={preview} what="due times">
            {(found) =>
              found && (
                <>
                  <p class="body-line">
                    <b>
                      <Text of={found.words} />
                    </b>
                  </p>
                  <DueTimes found={found} zone={fields.timezone.trim() || "UTC"} />
                </>
              )
            }
          </Loaded>
        ) : (
          <p class="empty dim">Say when, and its next due times are shown here.</p>
        )}
      </div>
    </Panel>
  );
}

interface PoliciesProps {
  fields: ScheduleFields;
  onChange: (some: Partial<ScheduleFields>) => void;
  fault: (name: string) => string | null;
}

function Policies({ fields, onChange, fault }: PoliciesProps) {
  const text = (name: "jitter" | "startAt" | "endAt" | "maxFirings", field: string) => ({
    value: fields[name],
    onChange: (value: string) => onChange({ [name]: value }),
    fault: fault(field),
  });
  return (
    <>
      <TextField
        label="Name"
        hint="Empty: it says when it runs"
        value={fields.name}
        onChange={(name) => onChange({ name })}
        fault={fault("name")}
      />
      <Field label="If the previous execution is still running" fault={fault("overlap")}>
        <Select
          of={OVERLAPS}
          value={fields.overlap}
          onChange={(overlap) => onChange({ overlap })}
        />
      </Field>
      <div class="pair">
        <Field label="If a due time was missed" fault={fault("misfire")}>
          <Select
            of={MISFIRES}
            value={fields.misfire}
            onChange={(misfire) => onChange({ misfire })}
          />
        </Field>
        <TextField
          label="At most this late"
          hint="Such as 30m or 1h"
          value={fields.misfireWindow}
          onChange={(misfireWindow) => onChange({ misfireWindow })}
          fault={fault("misfire_window")}
        />
      </div>
      <Calendars fields={fields} onChange={onChange} fault={fault} />
      <details>
        <summary>Start, end, limit, jitter</summary>
        <div class="form">
          <TextField
            label="Not before"
            hint="Such as 2026-12-01T00:00:00Z"
            {...text("startAt", "start_at")}
          />
          <TextField
            label="Not after"
            hint="Such as 2027-03-01T00:00:00Z"
            {...text("endAt", "end_at")}
          />
          <TextField
            label="Maximum number of runs"
            hint="Empty: no limit"
            {...text("maxFirings", "max_firings")}
          />
          <TextField
            label="Jitter"
            hint="Such as 5m: delays each due time by 0 to 5 minutes"
            {...text("jitter", "jitter")}
          />
        </div>
      </details>
      <Check
        label="Enabled"
        hint="Otherwise its due times are skipped."
        checked={fields.enabled}
        onChange={(enabled) => onChange({ enabled })}
      />
    </>
  );
}

function Calendars({ fields, onChange, fault }: PoliciesProps) {
  const listed = useResource(
    (signal) => ask("GET /calendars", { query: { limit: 200 }, signal }),
    [],
  );
  const known = (listed.data.value?.items ?? []).map((calendar) => calendar.name);
  const names = [...known, ...fields.calendars.filter((name) => !known.includes(name))];
  if (names.length === 0) return null;
  const wrong = fields.calendars.map((_, index) => fault(`calendars/${index}`)).find(Boolean);
  return (
    <fieldset class="form picker">
      <legend>Calendars</legend>
      {names.map((name) => (
        <Check
          key={name}
          label={name}
          checked={fields.calendars.includes(name)}
          onChange={(on) =>
            onChange({
              calendars: on
                ? [...fields.calendars, name]
                : fields.calendars.filter((one) => one !== name),
            })
          }
        />
      ))}
      {wrong && <p class="small fault">{wrong}</p>}
    </fieldset>
  );
}
