/** What went wrong with a request, and the way out. */
import type { ComponentChildren } from "preact";
import type { RequestError } from "../api/problem.ts";
import type { Resource } from "../state/resource.ts";
import { taste } from "../state/taste.ts";
import { CopyButton } from "./copy.tsx";
import { momentWords } from "./moment.ts";
import { Text } from "./text.tsx";
import { now } from "./time.tsx";

interface TroubleProps {
  error: RequestError;
  onRetry?: () => void;
  retryAt?: number | null;
}

export function Trouble({ error, onRetry, retryAt = null }: TroubleProps) {
  const seconds = retryAt && Math.max(0, Math.ceil((retryAt - now.value.getTime()) / 1_000));
  return (
    <div class="trouble" role="alert">
      <b>
        <Text of={error.message} />
      </b>
      {error.errors
        .filter((one) => !says(error, one.detail))
        .map((one) => (
          <span key={one.pointer ?? one.detail}>
            {one.pointer && <code>{one.pointer}</code>} <Text of={one.detail} />
          </span>
        ))}
      <span class="row small dim">
        <code>{error.code}</code>
        {error.requestId && (
          <>
            request <code>{error.requestId}</code>
            <CopyButton text={error.requestId} what="request id" />
          </>
        )}
        {seconds !== null && <span aria-hidden="true">tries again in {seconds} s</span>}
        {onRetry && (
          <button type="button" class="button small" onClick={onRetry}>
            Try again
          </button>
        )}
      </span>
    </div>
  );
}

/** True if the message says this already. */
function says({ message, errors }: RequestError, detail: string): boolean {
  return detail === message || (errors.length === 1 && message.includes(detail));
}

interface LoadedProps<T> {
  resource: Resource<T>;
  children: (data: T) => ComponentChildren;
  /** What is loaded, for "Loading …". */
  what?: string;
  /** The heading of the page while there is no data to make it of. */
  heading?: string;
}

/** A resource: loading, its error, its data; the last data stays, greyed, if a reload fails. */
export function Loaded<T>({ resource, children, what = "", heading }: LoadedProps<T>) {
  const { data, error, at } = resource;
  const trouble = error.value && (
    <Trouble error={error.value} onRetry={resource.reload} retryAt={resource.retryAt.value} />
  );
  if (data.value === null)
    return (
      <div class={heading ? "stack" : ""}>
        {heading && (
          <h1>
            <Text of={heading} />
          </h1>
        )}
        {trouble ?? (
          <p class="loading" role="status">
            Loading{what && ` ${what}`} …
          </p>
        )}
      </div>
    );
  if (!trouble) return <>{children(data.value)}</>;
  return (
    <>
      {trouble}
      <p class="small dim">as of {momentWords(at.value!, taste.value.clock)}</p>
      <div class="stale">{children(data.value)}</div>
    </>
  );
}
