/** A text of a program with line numbers; lines that somebody found something in are marked. */
import type { Ref } from "preact";
import { useRef } from "preact/hooks";
import { Field } from "./form.tsx";
import "../style/forms.css";

interface EditorProps {
  label: string;
  hint?: string;
  text: string;
  onChange: (text: string) => void;
  /** Lines from 1. */
  wrong: ReadonlySet<number>;
  fault?: string | null;
  area: Ref<HTMLTextAreaElement>;
}

export function Editor({ label, hint, text, onChange, wrong, fault, area }: EditorProps) {
  return (
    <Field label={label} hint={hint} fault={fault}>
      <Area text={text} onChange={onChange} wrong={wrong} area={area} />
    </Field>
  );
}

type AreaProps = Omit<EditorProps, "label" | "hint" | "fault">;

/** What Field adds belongs to the textarea. */
function Area({ text, onChange, wrong, area, ...rest }: AreaProps) {
  const numbers = useRef<HTMLDivElement>(null);
  const lines = text.split("\n").length;
  return (
    <div class="editor">
      <div class="numbers" ref={numbers} aria-hidden="true">
        {Array.from({ length: lines }, (_, index) => (
          <div key={index} class={wrong.has(index + 1) ? "wrong" : ""}>
            {index + 1}
          </div>
        ))}
      </div>
      <textarea
        {...rest}
        ref={area}
        class="input"
        wrap="off"
        spellcheck={false}
        autoComplete="off"
        value={text}
        onInput={(event) => onChange(event.currentTarget.value)}
        onKeyDown={indent}
        onScroll={(event) => {
          numbers.current!.scrollTop = event.currentTarget.scrollTop;
        }}
      />
    </div>
  );
}

/** Enter keeps the indentation of the line. */
function indent(event: KeyboardEvent): void {
  if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.isComposing) return;
  const area = event.currentTarget as HTMLTextAreaElement;
  const line = area.value.slice(0, area.selectionStart).split("\n").at(-1)!;
  const blank = /^ */.exec(line)![0];
  if (!blank) return;
  event.preventDefault();
  // The one way that leaves the change in the browser's history of undo.
  document.execCommand("insertText", false, `\n${blank}`);
}

/** Put the cursor on a line, from 1. */
export function goToLine(area: HTMLTextAreaElement, line: number): void {
  const before = area.value.split("\n").slice(0, line - 1);
  const at = before.reduce((sum, one) => sum + one.length + 1, 0);
  area.focus();
  area.setSelectionRange(at, at);
  area.scrollTop = Math.max(0, (line - 5) * LINE_PX);
}

const LINE_PX = 18;
