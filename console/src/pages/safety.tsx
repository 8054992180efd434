/** Safety: is this text safe? The verdict, the findings at their lines, and all rules. */
import { useEffect, useState } from "preact/hooks";
import { ask, RequestError } from "../api/ask.ts";
import type { Finding, SafetyCheck, SafetyRule } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { Field } from "../parts/form.tsx";
import { Panel } from "../parts/panel.tsx";
import { Verdict } from "../parts/verdict.tsx";
import { Text } from "../parts/text.tsx";
import { Loaded, Trouble } from "../parts/trouble.tsx";
import { query, setQuery } from "../router.tsx";
import { lineOf } from "../safety/lines.ts";
import { useResource } from "../state/resource.ts";
import "../style/safety.css";

const TYPING_MS = 400;
const TEXT_MAX = 65_536;
const INTERPRETERS = ["sh", "bash", "python", "perl", "powershell", "cmd"] as const;
const EXAMPLE = 'set -e\ncd /var/log\nrm -rf "$OLD"/*\nsystemctl restart nginx';

export default function Safety() {
  const interpreter = query.value.get("interpreter") ?? "bash";
  const [text, setText] = useState(query.value.get("text") ?? "");
  const [become, setBecome] = useState(false);
  const [labels, setLabels] = useState("");
  const { answer, error, busy } = useVerdict(text, interpreter, become, labels);
  return (
    <div class="stack">
      <h1>Safety check</h1>
      <div class="safety">
        <Panel title="Text">
          <div class="form">
            <Field label="What would run">
              <textarea
                class="input"
                rows={14}
                maxLength={TEXT_MAX}
                spellcheck={false}
                data-filter
                value={text}
                onInput={(event) => setText(event.currentTarget.value)}
              />
            </Field>
            <div class="row">
              <label class="row">
                Interpreter
                <select
                  class="input"
                  value={interpreter}
                  onChange={(event) => setQuery({ interpreter: event.currentTarget.value })}
                >
                  {INTERPRETERS.map((one) => (
                    <option key={one}>{one}</option>
                  ))}
                </select>
              </label>
              <label class="row">
                <input
                  type="checkbox"
                  checked={become}
                  onChange={(event) => setBecome(event.currentTarget.checked)}
                />
                as root
              </label>
              {!text && (
                <button type="button" class="button small" onClick={() => setText(EXAMPLE)}>
                  Show an example
                </button>
              )}
            </div>
            <Field
              label="Labels of the targets"
              hint="Some rules are stricter for production: env=prod, role=db"
            >
              <input
                class="input mono"
                value={labels}
                onInput={(event) => setLabels(event.currentTarget.value)}
              />
            </Field>
          </div>
        </Panel>
        <Panel title={<>Verdict {answer && <Verdict verdict={answer.verdict} />}</>}>
          <div class="form" aria-live="polite">
            {error && <Trouble error={error} />}
            {!answer && !error && (
              <p class="dim">
                {busy ? "Checking …" : "Type a command or script. It is checked, never run."}
              </p>
            )}
            {answer && <Findings answer={answer} text={text} />}
          </div>
        </Panel>
      </div>
      <Rules />
    </div>
  );
}

/** Ask for the verdict a moment after the last change. */
function useVerdict(text: string, interpreter: string, become: boolean, labels: string) {
  const [answer, setAnswer] = useState<SafetyCheck | null>(null);
  const [error, setError] = useState<RequestError | null>(null);
  useEffect(() => {
    if (!text.trim()) {
      setAnswer(null);
      setError(null);
      return;
    }
    const request = new AbortController();
    const named = labels.split(/[\s,]+/).filter(Boolean);
    const timer = setTimeout(async () => {
      try {
        const body = { text, interpreter, become, labels: named };
        setAnswer(await ask("POST /safety/check", { body, signal: request.signal }));
        setError(null);
      } catch (failed) {
        if (request.signal.aborted) return;
        if (!(failed instanceof RequestError)) throw failed;
        setAnswer(null);
        setError(failed);
      }
    }, TYPING_MS);
    return () => {
      clearTimeout(timer);
      request.abort();
    };
  }, [text, interpreter, become, labels]);
  return { answer, error, busy: text.trim() !== "" };
}

function Findings({ answer, text }: { answer: SafetyCheck; text: string }) {
  if (!answer.findings.length) return <p>No rule matches.</p>;
  return (
    <ul class="findings">
      {answer.findings.map((finding, index) => (
        <FindingItem key={index} finding={finding} line={lineOf(text, finding.excerpt)} />
      ))}
    </ul>
  );
}

function FindingItem({ finding, line }: { finding: Finding; line: number | null }) {
  return (
    <li>
      <p class="row">
        <Verdict verdict={finding.severity} />
        <code>{finding.rule}</code>
        {line !== null && <span class="dim">line {line}</span>}
      </p>
      <p>{finding.reason}</p>
      <pre class="excerpt">
        <Text of={finding.excerpt} />
      </pre>
    </li>
  );
}

function Rules() {
  const rules = useResource((signal) => ask("GET /safety/rules", { signal }), []);
  const [typed, setTyped] = useState("");
  const fits = (rule: SafetyRule) =>
    `${rule.name} ${rule.reason} ${rule.severity}`.toLowerCase().includes(typed.toLowerCase());
  return (
    <Panel title="Rules" flush>
      <Loaded resource={rules} what="the rules">
        {({ items }) => (
          <>
            <div class="body-line">
              <input
                type="search"
                class="input"
                aria-label="Find a rule"
                placeholder={`Find one of ${items.length} rules`}
                value={typed}
                onInput={(event) => setTyped(event.currentTarget.value)}
              />
            </div>
            <ul class="rules">
              {items.filter(fits).map((rule) => (
                <li key={rule.name}>
                  <Verdict verdict={rule.severity} />
                  <span>
                    <code>{rule.name}</code> {rule.reason}
                    {rule.stricter.map((one) => (
                      <span key={one.when} class="dim">
                        {" "}
                        {one.severity.replaceAll("_", " ")} if {one.when}.
                      </span>
                    ))}
                  </span>
                  <code class="dim cut" title={rule.example}>
                    {rule.example}
                  </code>
                </li>
              ))}
            </ul>
            {!items.some(fits) && <Empty why={`No rule has "${typed}" in its name or reason.`} />}
          </>
        )}
      </Loaded>
    </Panel>
  );
}
