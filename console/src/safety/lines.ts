/** Return the line of a text, from 1, on which an excerpt begins; null if it is not in it. */
export function lineOf(text: string, excerpt: string): number | null {
  const plain = excerpt.replace(/…$/, "").trim();
  const at = plain ? text.indexOf(plain) : -1;
  return at < 0 ? null : text.slice(0, at).split("\n").length;
}
