/** Moves the focus to the heading of a page when it is opened, as loading a document would. */
import { useEffect, useRef } from "preact/hooks";

/** Wait for the heading of the page at this path, and give it the focus; not for the first page. */
export function useHeadingFocus(path: string): void {
  const first = useRef(true);
  useEffect(() => {
    if (first.current) {
      first.current = false;
      return;
    }
    const page = document.getElementById("page")!;
    const before = document.activeElement;
    const isUntouched = () => [before, document.body, null].includes(document.activeElement);
    const observer = new MutationObserver(() => give());
    const give = () => {
      const heading = page.querySelector("h1");
      // Whoever has gone on by keyboard meanwhile is not called back.
      if (heading || !isUntouched()) observer.disconnect();
      if (!heading || !isUntouched()) return;
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    };
    observer.observe(page, { childList: true, subtree: true });
    give();
    return () => observer.disconnect();
  }, [path]);
}
