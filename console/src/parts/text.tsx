/** Text of others. Characters that turn or hide text are shown as marks. */
import { splitHidden } from "./hidden-characters.ts";

export function Text({ of }: { of: string }) {
  const parts = splitHidden(of);
  if (parts.length === 1 && !parts[0]!.hidden) return <>{of}</>;
  return (
    <>
      {parts.map((part, index) =>
        part.hidden ? (
          <span key={index} class="bidi-mark" title="an invisible character">
            {part.text}
          </span>
        ) : (
          <bdi key={index}>{part.text}</bdi>
        ),
      )}
    </>
  );
}
