/** Short news about what was just done. Nothing that must be read stands only here. */
import { signal } from "@preact/signals";
import { slowReads } from "../api/awaited.ts";
import type { RequestError } from "../api/problem.ts";
import type { Tone } from "./tone.ts";

interface News {
  id: number;
  tone: Tone;
  text: string;
}
const SECONDS = 6;
const news = signal<News[]>([]);
let last = 0;

/** Show some news for a few seconds; errors stay until they are closed. */
export function toast(text: string, tone: Tone = "ok"): void {
  const id = ++last;
  news.value = [...news.value.slice(-3), { id, tone, text }];
  if (tone !== "bad") setTimeout(() => close(id), SECONDS * 1_000);
}

/** Show why a request was refused that has no place of its own on the page. */
export function toastError({ message, code, requestId }: RequestError): void {
  toast(`${message} (${code}${requestId && `, request ${requestId}`})`, "bad");
}

function close(id: number): void {
  news.value = news.value.filter((one) => one.id !== id);
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {slowReads.value > 0 && (
        <div class="toast warn">
          opsjobs has not answered for some time: what is shown may be old.
        </div>
      )}
      {news.value.map(({ id, tone, text }) => (
        <div key={id} class={`toast ${tone}`}>
          <span class="grow">{text}</span>
          <button type="button" class="button small plain" onClick={() => close(id)}>
            Close
          </button>
        </div>
      ))}
    </div>
  );
}
