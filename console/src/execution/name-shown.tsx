/** The name of an execution on a page: a long title is cut, and its number never. */
import { splitHidden } from "../parts/hidden-characters.ts";
import { Text } from "../parts/text.tsx";
import { type Named, titleOf } from "./name.ts";

export function Name({ of, id }: { of: Named; id: number }) {
  const title = titleOf(of);
  const whole = splitHidden(title).map((part) => part.text);
  return (
    <span class="name-of" title={whole.join("")}>
      <span class={of.summary === null ? "cut" : "cut mono"}>
        <Text of={title} />
      </span>{" "}
      <span>#{id}</span>
    </span>
  );
}
