/** Dead letters: which runs need a decision, and what to do about them? */
import { useMemo, useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { DeadLetter, LetterFilter } from "../api/types.ts";
import { Name } from "../execution/name-shown.tsx";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Check } from "../parts/form.tsx";
import { currentFilter } from "../parts/filter.tsx";
import { ListPage } from "../parts/list-page.tsx";
import { Status } from "../parts/status.tsx";
import type { Column } from "../parts/table.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Link, setQuery } from "../router.tsx";
import { useFilteredList } from "../state/filtered-list.ts";
import { type FilterWord, toQuery } from "../state/list-filter.ts";
import { mayDo, mayLaunch } from "../state/rights.ts";

const REFRESH_SECONDS = 15;

const WORDS: readonly FilterWord[] = [
  { word: "status", parameter: "status", values: ["lost", "dead"] },
  { word: "error", parameter: "error" },
  { word: "job", parameter: "job" },
  { word: "target", parameter: "target" },
  { word: "execution", parameter: "execution", kind: "number" },
];

const REVIVE = " Revive a run to start it again, or discard it.";
const DISCARD = " Discard a run that needs no other answer. Reviving one takes a right to launch.";

type Answer = "revive" | "discard";

export default function DeadLetters() {
  const [answering, setAnswering] = useState<Answer | null>(null);
  const letters = useFilteredList("GET /dead-letters", {
    words: WORDS,
    more: { facets: ["error", "job_name"] },
    limit: 100,
    everySeconds: REFRESH_SECONDS,
  });
  const { query } = toQuery(letters.filter, WORDS);
  const { items = [], facets } = letters.list.data.value ?? {};
  const counts = facets?.["error"] ?? {};
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const several = Object.values(query).some((values) => values.length > 1);
  const manages = mayDo("dead_letters:manage");
  const actions = total > 0 && manages && (
    <>
      {mayLaunch() && (
        <Action answer="revive" total={total} several={several} onChoose={setAnswering} />
      )}
      <Action answer="discard" total={total} several={several} onChoose={setAnswering} />
    </>
  );
  return (
    <>
      <ListPage
        title="Dead letters"
        rows="dead letters"
        of={letters}
        placeholder="Such as error:no_contact job:backup target:web-1"
        actions={actions}
        intro={
          <p class="dim">
            Runs whose outcome is unknown (lost), or whose worker died each time it ran them (dead).
            {manages && (mayLaunch() ? REVIVE : DISCARD)}
          </p>
        }
        above={() => (
          <>
            <Counts word="job" counts={facets?.["job_name"] ?? {}} />
            <Counts word="error" counts={counts} />
          </>
        )}
        columns={COLUMNS}
        keyOf={(letter) => String(letter.id)}
        pathOf={(letter) => `/executions/${letter.execution_id}`}
        width={820}
        empty={<Empty why="There are no dead letters: nothing waits for an answer." />}
      />
      {answering && (
        <AnswerDialog
          answer={answering}
          filter={letterFilter(query)}
          total={total}
          lost={items.some((one) => one.status === "lost")}
          onClose={() => {
            setAnswering(null);
            void letters.list.restart();
          }}
        />
      )}
    </>
  );
}

/** The filter of the list as the filter of an answer, which takes one value for each word. */
function letterFilter(query: Record<string, string[]>): LetterFilter {
  const pairs = Object.entries(query).map(([name, values]) => [
    name,
    name === "execution" ? Number(values[0]) : values[0],
  ]);
  return Object.fromEntries(pairs) as LetterFilter;
}

interface ActionProps {
  answer: Answer;
  total: number;
  /** A word of the filter has several values: an answer takes one. */
  several: boolean;
  onChoose: (answer: Answer) => void;
}

function Action({ answer, total, several, onChoose }: ActionProps) {
  return (
    <button
      type="button"
      class="button"
      disabled={several}
      title={several ? "Filter by one value of each word" : undefined}
      onClick={() => onChoose(answer)}
    >
      {answer === "revive" ? "Revive" : "Discard"} {total.toLocaleString("en")}…
    </button>
  );
}

function Counts({ word, counts }: { word: string; counts: Record<string, number> }) {
  const pairs = Object.entries(counts);
  if (pairs.length < 2) return null;
  return (
    <ul class="tally" aria-label={`By ${word}`}>
      {pairs.map(([value, count]) => (
        <li key={value}>
          <button
            type="button"
            class="button small"
            onClick={() =>
              setQuery(
                { q: `${currentFilter()} ${word}:${JSON.stringify(value)}`.trim() },
                { replace: false },
              )
            }
          >
            {count.toLocaleString("en")} <Text of={value} />
          </button>
        </li>
      ))}
    </ul>
  );
}

interface AnswerProps {
  answer: Answer;
  filter: LetterFilter;
  total: number;
  lost: boolean;
  onClose: () => void;
}

function AnswerDialog({ answer, filter, total, lost, onClose }: AnswerProps) {
  const [looked, setLooked] = useState(false);
  const key = useMemo(() => crypto.randomUUID(), []);
  const revives = answer === "revive";
  const verb = `${revives ? "Revive" : "Discard"} ${total.toLocaleString("en")}`;
  const send = async (reason: string) => {
    if (revives) {
      const made = await ask("POST /dead-letters/revive", {
        body: { filter, ...(reason && { reason }) },
        idempotencyKey: key,
      });
      toast(`${made.executions.length} executions run them again.`);
    } else {
      await ask("POST /dead-letters/discard", { body: { filter, reason } });
      toast(`${total} are discarded.`);
    }
  };
  return (
    <Confirm
      title={`${verb}?`}
      verb={verb}
      count={total}
      reason={revives ? "optional" : "required"}
      ready={!revives || !lost || looked}
      danger={!revives}
      onConfirm={send}
      onClose={onClose}
    >
      <p>
        {revives
          ? "New executions run them again, from the step that was lost."
          : "They are not run again. The reason is kept with each of them."}
      </p>
      {revives && lost && (
        <Check
          label="I have looked at them: a lost run may have done its work"
          checked={looked}
          onChange={setLooked}
        />
      )}
    </Confirm>
  );
}

const COLUMNS: readonly Column<DeadLetter>[] = [
  {
    name: "target",
    label: "Target",
    width: "minmax(120px, 1fr)",
    cell: (letter) => (
      <Link to={`/targets/${encodeURIComponent(letter.target.name)}`}>
        <b>
          <Text of={letter.target.name} />
        </b>
      </Link>
    ),
  },
  {
    name: "status",
    label: "State",
    width: "minmax(90px, 1fr)",
    cell: (letter) => <Status state={letter.status} />,
  },
  {
    name: "execution",
    label: "Execution",
    width: "minmax(140px, 1fr)",
    cell: (letter) => (
      <Link to={`/executions/${letter.execution_id}`}>
        <Name of={letter} id={letter.execution_id} />
      </Link>
    ),
  },
  {
    name: "error",
    label: "What happened",
    width: "minmax(200px, 3fr)",
    cell: (letter) => <Text of={letter.error?.message ?? ""} />,
  },
  {
    name: "late",
    label: "Late result",
    width: "minmax(136px, 1fr)",
    cell: (letter) =>
      letter.late_result ? (
        <Status state={letter.late_result.status} />
      ) : (
        <span class="dim">–</span>
      ),
  },
  {
    name: "at",
    label: "Ended",
    width: "minmax(90px, 1fr)",
    end: true,
    cell: (letter) => <Time at={letter.at} ago />,
  },
];
