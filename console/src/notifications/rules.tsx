/** The notification rules of a job, a schedule or the installation: made, changed, tested, deleted. */
import { useState } from "preact/hooks";
import type { NotificationRule } from "../api/types.ts";
import { PREFIX } from "../api/url.ts";
import { commandLine, curlLine } from "../parts/command-line.ts";
import { copy } from "../parts/copy.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Menu } from "../parts/menu.tsx";
import { Panel } from "../parts/panel.tsx";
import { type Column, Table } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { toast } from "../parts/toast.tsx";
import { mayDo } from "../state/rights.ts";
import { CHANNELS, eventWords, hasOwnText, quietWords, trialWords } from "./draft.ts";
import { RuleForm } from "./form.tsx";
import { TrialDialog } from "./trial.tsx";

const RULES_MAX = 20;

type Rule = NotificationRule;
type Rules = readonly Rule[];

interface RulesPanelProps {
  title: string;
  /** Null: it has none of its own, and those of `otherwise` apply. */
  rules: Rules | null;
  /** Whose rules apply without own ones, such as "the job"; null: there are no others. */
  otherwise: string | null;
  /** Where the list stands in what is saved. */
  pointer: string;
  /** The person may change them. */
  may: boolean;
  /** Store the whole list. */
  save: (rules: Rules | null) => Promise<void>;
}

type Choice =
  | { what: "add" | "clear" | "silence"; at?: undefined }
  | { what: "change" | "test" | "delete"; at: number };

interface DialogsProps {
  choice: Choice;
  /** The rules, and how they are stored, as they were when it opened: over newer ones is refused. */
  of: RulesPanelProps;
  onClose: () => void;
}

export function RulesPanel(props: RulesPanelProps) {
  const { title, rules, otherwise, may } = props;
  const [open, setOpen] = useState<Omit<DialogsProps, "onClose"> | null>(null);
  const choose = (choice: Choice) => setOpen({ choice, of: props });
  const shown = rules ?? [];
  return (
    <Panel
      title={title}
      flush
      actions={
        may && (
          <>
            {otherwise !== null && rules === null && (
              <button
                type="button"
                class="button small"
                onClick={() => choose({ what: "silence" })}
              >
                Turn off …
              </button>
            )}
            {otherwise !== null && rules !== null && (
              <button type="button" class="button small" onClick={() => choose({ what: "clear" })}>
                Use those of {otherwise} …
              </button>
            )}
            <button
              type="button"
              class="button small"
              disabled={shown.length >= RULES_MAX}
              title={shown.length >= RULES_MAX ? `At most ${RULES_MAX} rules` : undefined}
              onClick={() => choose({ what: "add" })}
            >
              New rule …
            </button>
          </>
        )
      }
    >
      {shown.length ? (
        <Table
          label="Notification rules"
          columns={[...COLUMNS, actionsOf(may, choose)]}
          rows={shown.map((rule, at) => ({ rule, at }))}
          keyOf={({ at }) => String(at)}
          width={640}
        />
      ) : (
        <Empty why={emptyWords(rules, otherwise)} />
      )}
      {open && <Dialogs {...open} onClose={() => setOpen(null)} />}
    </Panel>
  );
}

function emptyWords(rules: Rules | null, otherwise: string | null): string {
  if (otherwise === null)
    return "There are no default rules: only jobs and schedules with rules of their own send messages. A rule sends one to people or programs when something fails, is back to normal, is late or needs an approval.";
  if (rules === null) return `It has no rules of its own: those of ${otherwise} apply.`;
  return `Notifications are turned off here: the rules of ${otherwise} do not apply.`;
}

function Dialogs({ choice, of, onClose }: DialogsProps) {
  const { rules, otherwise, pointer, save } = of;
  const shown = rules ?? [];
  if (choice.what === "add")
    return (
      <RuleForm
        rule={null}
        pointer={`${pointer}/${shown.length}`}
        onSave={async (rule) => {
          await save([...shown, rule]);
          toast("The rule is added.");
        }}
        onClose={onClose}
      />
    );
  if (choice.what === "silence" || choice.what === "clear")
    return (
      <Confirm
        title={
          choice.what === "silence" ? "Turn notifications off?" : `Use the rules of ${otherwise}?`
        }
        verb={choice.what === "silence" ? "Turn off" : "Use those"}
        onClose={onClose}
        onConfirm={() => save(choice.what === "silence" ? [] : null)}
      >
        <p>
          {choice.what === "silence"
            ? `The rules of ${otherwise} do not apply here from then on.`
            : "Its own rules are deleted."}
        </p>
      </Confirm>
    );
  if (choice.at === undefined) return null;
  const { at } = choice;
  const rule = shown[at]!;
  if (choice.what === "test") return <TrialDialog rule={rule} onClose={onClose} />;
  if (choice.what === "change")
    return (
      <RuleForm
        rule={rule}
        pointer={`${pointer}/${at}`}
        onSave={async (changed) => {
          await save(shown.map((one, n) => (n === at ? changed : one)));
          toast("The rule is changed.");
        }}
        onClose={onClose}
      />
    );
  const isLast = shown.length === 1;
  return (
    <Confirm
      title="Delete the rule?"
      verb="Delete"
      danger
      onClose={onClose}
      onConfirm={async () => {
        const rest = shown.filter((_, n) => n !== at);
        await save(isLast && otherwise !== null ? null : rest);
        toast("The rule is deleted.");
      }}
    >
      <p>
        It sends <Text of={rule.to.join(", ")} /> no more messages.
        {isLast && otherwise !== null && ` It is the last one: those of ${otherwise} apply then.`}
      </p>
    </Confirm>
  );
}

interface Row {
  rule: Rule;
  at: number;
}

const COLUMNS: readonly Column<Row>[] = [
  {
    name: "on",
    label: "When",
    width: "minmax(140px, 2fr)",
    cell: ({ rule }) => eventWords(rule),
  },
  {
    name: "channel",
    label: "Channel",
    width: "minmax(100px, 1fr)",
    cell: ({ rule }) => CHANNELS[rule.channel],
  },
  {
    name: "to",
    label: "To",
    width: "minmax(140px, 2fr)",
    cell: ({ rule }) => <Text of={rule.to.join(", ")} />,
  },
  {
    name: "quiet",
    label: "How often",
    width: "minmax(120px, 2fr)",
    cell: ({ rule }) => quietWords(rule),
  },
];

function actionsOf(may: boolean, choose: (choice: Choice) => void): Column<Row> {
  return {
    name: "actions",
    label: "Actions",
    width: "112px",
    bare: true,
    cell: ({ rule, at }) => (
      <Menu
        label="Actions"
        name={`Actions of rule ${at + 1}`}
        kind="small"
        items={[
          ...(may ? [{ label: "Change …", onChoose: () => choose({ what: "change", at }) }] : []),
          ...(mayDo("jobs:update")
            ? [{ label: "Test …", onChoose: () => choose({ what: "test", at }) }]
            : []),
          ...(may ? [{ label: "Delete …", onChoose: () => choose({ what: "delete", at }) }] : []),
          null,
          ...(hasOwnText(rule)
            ? []
            : [
                {
                  label: "Copy the test as a command",
                  onChoose: () => copy(commandLine(...trialWords(rule)), "command"),
                },
              ]),
          {
            label: "Copy the test as curl",
            onChoose: () =>
              copy(
                curlLine("POST", `${location.origin}${PREFIX}/notifications/test`, rule),
                "curl",
              ),
          },
          {
            label: "Copy as JSON",
            onChoose: () => copy(JSON.stringify(rule, null, 2), "JSON"),
          },
        ]}
      />
    ),
  };
}
