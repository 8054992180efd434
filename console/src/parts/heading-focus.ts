/**
 * Moves the focus when a page is opened: to its heading, as loading a document would, or to the field
 * that it begins with.
 */
import { useEffect, useRef } from "preact/hooks";

/** Begin in the field with `data-begin`, unless the focus would open a keyboard over the page. */
export function useFieldFocus(): void {
  useEffect(() => {
    if (matchMedia("(pointer: coarse)").matches) return;
    document.querySelector<HTMLElement>("#page [data-begin]")?.focus({ preventScroll: true });
  }, []);
}

/** Wait for the heading of the page at this path, and give it the focus; not for the first page. */
export function useHeadingFocus(path: string): void {
  const first = useRef(true);
  useEffect(() => {
    if (first.current) {
      first.current = false;
      return;
    }
    const page = document.getElementById("page")!;
    let focused: Element | null = document.activeElement;
    let given: HTMLElement | null = null;
    const give = () => {
      const now = document.activeElement;
      // Whoever has gone on by keyboard meanwhile is not called back.
      if (now !== focused && now !== document.body) return observer.disconnect();
      const heading = page.querySelector("h1");
      // The heading while the page loads is replaced by that of what was loaded.
      if (!heading || given?.isConnected) return;
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
      focused = heading;
      given = heading;
    };
    const observer = new MutationObserver(give);
    observer.observe(page, { childList: true, subtree: true });
    give();
    return () => observer.disconnect();
  }, [path]);
}
