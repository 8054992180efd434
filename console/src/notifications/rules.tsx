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
import { CHANNELS, eventWords, quietWords, trialWords } from "./draft.ts";
import { RuleForm } from "./form.tsx";
import { TrialDialog } from "./trial.tsx";

const RULES_MAX = 20;

type Rule = NotificationRule;
type Rules = readonly Rule[];

interface RulesPanelProps {
  title: string;
  /** Null: it has none of its own, and those of `otherwise` apply. */
  rules: Rules | null;
  /** Whose rules apply without own ones, such as "the job"; null: nobody's. */
  otherwise: string | null;
  /** Where the list stands in what is saved. */
  pointer: string;
  /** The person may change them. */
  may: boolean;
  /** Store the whole list. */
  save: (rules: Rules | null) => Promise<void>;
}

type Open =
  | { what: "add" | "clear" | "silence"; at?: undefined }
  | { what: "change" | "test" | "delete"; at: number }
  | null;

export function RulesPanel(props: RulesPanelProps) {
  const { title, rules, otherwise, may } = props;
  const [open, setOpen] = useState<Open>(null);
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
                onClick={() => setOpen({ what: "silence" })}
              >
                Turn off …
              </button>
            )}
            {otherwise !== null && rules !== null && (
              <button type="button" class="button small" onClick={() => setOpen({ what: "clear" })}>
                Use those of {otherwise} …
              </button>
            )}
            <button
              type="button"
              class="button small"
              disabled={shown.length >= RULES_MAX}
              title={shown.length >= RULES_MAX ? `At most ${RULES_MAX} rules` : undefined}
              onClick={() => setOpen({ what: "add" })}
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
          columns={[...COLUMNS, actionsOf(may, setOpen)]}
          rows={shown.map((rule, at) => ({ rule, at }))}
          keyOf={({ at }) => String(at)}
          width={640}
        />
      ) : (
        <Empty why={emptyWords(rules, otherwise)} />
      )}
      <Dialogs {...props} open={open} onClose={() => setOpen(null)} />
    </Panel>
  );
}

function emptyWords(rules: Rules | null, otherwise: string | null): string {
  if (otherwise === null)
    return "Nobody is told how jobs end, unless the job or the schedule says so. A rule tells people or programs when something fails, is back to normal, is late or needs an approval.";
  if (rules === null) return `It has no rules of its own: those of ${otherwise} apply.`;
  return `Nobody is told, whatever ${otherwise} says.`;
}

interface DialogsProps extends RulesPanelProps {
  open: Open;
  onClose: () => void;
}

function Dialogs({ open, rules, otherwise, pointer, save, onClose }: DialogsProps) {
  const shown = rules ?? [];
  if (open === null) return null;
  if (open.what === "add")
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
  if (open.what === "silence" || open.what === "clear")
    return (
      <Confirm
        title={open.what === "silence" ? "Tell nobody?" : `Use the rules of ${otherwise}?`}
        verb={open.what === "silence" ? "Turn off" : "Use those"}
        onClose={onClose}
        onConfirm={() => save(open.what === "silence" ? [] : null)}
      >
        <p>
          {open.what === "silence"
            ? `The rules of ${otherwise} do not apply here from then on.`
            : "Its own rules are deleted."}
        </p>
      </Confirm>
    );
  if (open.at === undefined) return null;
  const { at } = open;
  const rule = shown[at]!;
  if (open.what === "test") return <TrialDialog rule={rule} onClose={onClose} />;
  if (open.what === "change")
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
        <Text of={rule.to.join(", ")} /> is told nothing by it from then on.
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
    label: "Over",
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

function actionsOf(may: boolean, setOpen: (open: Open) => void): Column<Row> {
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
          ...(may ? [{ label: "Change …", onChoose: () => setOpen({ what: "change", at }) }] : []),
          ...(mayDo("jobs:update")
            ? [{ label: "Test …", onChoose: () => setOpen({ what: "test", at }) }]
            : []),
          ...(may ? [{ label: "Delete …", onChoose: () => setOpen({ what: "delete", at }) }] : []),
          null,
          {
            label: "Copy the test as a command",
            onChoose: () => copy(commandLine(...trialWords(rule)), "command"),
          },
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
