/** A notification rule: who is told of what, over which channel, and how often. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { RequestError } from "../api/problem.ts";
import type { NotificationRule } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { Check, Field, Form, faultIn, Select, TextField } from "../parts/form.tsx";
import { ListField, useSettled } from "../parts/picker.tsx";
import { useResource } from "../state/resource.ts";
import { askIf, mayDo, mayDoEverywhere } from "../state/rights.ts";
import {
  CHANNELS,
  EVENTS,
  fieldsOf,
  NAMES,
  RECIPIENTS,
  type RuleFields,
  ruleOf,
  type Told,
} from "./draft.ts";
import { Trial } from "./trial.tsx";
import "../style/forms.css";
import "../style/launch.css";

interface RuleFormProps {
  /** Null: a new one. */
  rule: NotificationRule | null;
  /** Where the rule stands in what is saved, such as `/policy/notify/0`. */
  pointer: string;
  /** Store it with the others. */
  onSave: (rule: NotificationRule) => Promise<void>;
  onClose: () => void;
}

export function RuleForm({ rule, pointer, onSave, onClose }: RuleFormProps) {
  const [fields, setFields] = useState(() => fieldsOf(rule));
  const change = (some: Partial<RuleFields>) => setFields({ ...fields, ...some });
  const draft = ruleOf(fields);
  const findings = useFindings(draft);
  const save = async () => {
    await onSave(draft);
    onClose();
  };
  return (
    <Dialog title={rule ? "Change the rule" : "New rule"} wide onClose={onClose}>
      <Form verb={rule ? "Save" : "Add the rule"} onSubmit={save} onCancel={onClose}>
        {(error) => {
          const fault = (name: string) =>
            faultIn(error, `${pointer}/${name}`) ?? faultIn(findings, `/${name}`);
          return (
            <>
              <Recipients fields={fields} onChange={change} fault={fault} />
              <Events fields={fields} onChange={change} fault={fault} />
              <Quiet fields={fields} onChange={change} fault={fault} />
              <Texts fields={fields} onChange={change} fault={fault} />
              {mayDo("jobs:update") && <Trial rule={draft} />}
            </>
          );
        }}
      </Form>
    </Dialog>
  );
}

/** Ask what is wrong with a rule when typing has paused; nothing is sent. */
function useFindings(draft: NotificationRule): RequestError | null {
  const key = JSON.stringify(draft);
  const settled = useSettled(key, key);
  const found = useResource(
    (signal) => {
      const body = JSON.parse(settled) as NotificationRule;
      return askIf(mayDo("jobs:update") && body.to.length > 0, () =>
        ask("POST /notifications/test", { query: { dry_run: true }, body, signal }),
      );
    },
    [settled],
  );
  return found.error.value;
}

interface PartProps {
  fields: RuleFields;
  onChange: (some: Partial<RuleFields>) => void;
  fault: (name: string) => string | null;
}

function Recipients({ fields, onChange, fault }: PartProps) {
  const { label, hint } = RECIPIENTS[fields.channel];
  return (
    <>
      <div class="pair">
        <Field label="Channel" fault={fault("channel")}>
          <Select
            of={CHANNELS}
            value={fields.channel}
            onChange={(channel) => onChange({ channel })}
          />
        </Field>
        <ListField
          label={label}
          hint={hint}
          text={fields.to[fields.channel]}
          options={useNames(fields.channel)}
          required
          fault={fault("to")}
          onInput={(to) => onChange({ to: { ...fields.to, [fields.channel]: to } })}
        />
      </div>
      {fields.channel === "service" && (
        <TextField
          label="Channel of the service"
          hint="Only if its profile asks for one"
          value={fields.channelId}
          onChange={(channelId) => onChange({ channelId })}
          fault={fault("channel_id")}
        />
      )}
    </>
  );
}

/** The names that a channel's recipients can have, as far as the person may see them. */
function useNames(channel: RuleFields["channel"]): string[] {
  const found = useResource(
    async (signal) => {
      const query = { limit: 200 };
      if (channel === "webhook")
        return askIf(mayDo("webhooks:manage"), () => ask("GET /webhooks", { query, signal }));
      const named = channel === "apprise" && mayDoEverywhere("credentials:use");
      return askIf(named, () =>
        ask("GET /credentials", { query: { ...query, type: ["secret"] }, signal }),
      );
    },
    [channel],
  );
  return (found.data.value?.items ?? []).map((one) => one.name);
}

function Events({ fields, onChange, fault }: PartProps) {
  const toggle = (event: Told, on: boolean) =>
    onChange({ on: on ? [...fields.on, event] : fields.on.filter((one) => one !== event) });
  return (
    <fieldset class="form picker">
      <legend>When</legend>
      {Object.entries(EVENTS).map(([event, words]) => (
        <Check
          key={event}
          label={words}
          checked={fields.on.includes(event as Told)}
          onChange={(on) => toggle(event as Told, on)}
        />
      ))}
      {fields.on.includes("late") && (
        <TextField
          label="Late means later than"
          hint="Such as 60s or 10m"
          value={fields.lateAfter}
          onChange={(lateAfter) => onChange({ lateAfter })}
          fault={fault("late_after")}
        />
      )}
      {fault("on") && <p class="small fault">{fault("on")}</p>}
    </fieldset>
  );
}

function Quiet({ fields, onChange, fault }: PartProps) {
  return (
    <fieldset class="form picker">
      <legend>How often</legend>
      <Check
        label="Only if the outcome has changed"
        hint="The first failure and the recovery, not each failure between them."
        checked={fields.onlyChanges}
        onChange={(onlyChanges) => onChange({ onlyChanges })}
      />
      <TextField
        label="Gather into one message for"
        hint="Such as 15m or 1h; empty: each by itself"
        value={fields.digest}
        onChange={(digest) => onChange({ digest })}
        fault={fault("quiet/digest")}
      />
      <TextField
        label="Messages an hour, at most"
        hint="Empty: no limit"
        value={fields.perHour}
        onChange={(perHour) => onChange({ perHour })}
        fault={fault("quiet/max_per_hour")}
      />
    </fieldset>
  );
}

/** A value as a template names it. */
const placed = (name: string): string => `\${${name}}`;

function Texts({ fields, onChange, fault }: PartProps) {
  const isOwn = fields.subject !== "" || fields.text !== "";
  return (
    <details open={isOwn || fault("subject") !== null || fault("text") !== null}>
      <summary>Subject and text of your own</summary>
      <div class="form">
        <TextField
          label="Subject"
          hint={`Such as ${placed("job.name")}: ${placed("summary")}; empty: the built-in one`}
          value={fields.subject}
          onChange={(subject) => onChange({ subject })}
          fault={fault("subject")}
        />
        <Field
          label="Text"
          hint={`Empty: the built-in one. Values: ${NAMES.map(placed).join(", ")}`}
          fault={fault("text")}
        >
          <textarea
            class="input"
            rows={6}
            spellcheck={false}
            value={fields.text}
            onInput={(event) => onChange({ text: event.currentTarget.value })}
          />
        </Field>
      </div>
    </details>
  );
}
