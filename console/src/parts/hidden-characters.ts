/** Characters that turn, hide or overprint text: controls, bidi controls, zero-width ones. */
const HIDDEN = /(?![\t\n])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

export interface TextPart {
  text: string;
  hidden: boolean;
}

/** Return the text in parts; a hidden character as its code point, such as `U+202E`. */
export function splitHidden(text: string): TextPart[] {
  const parts: TextPart[] = [];
  let end = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > end) parts.push({ text: text.slice(end, found.index), hidden: false });
    const code = found[0].codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0");
    parts.push({ text: `U+${code}`, hidden: true });
    end = found.index + found[0].length;
  }
  if (end < text.length || parts.length === 0) parts.push({ text: text.slice(end), hidden: false });
  return parts;
}

/** Return the text with hidden characters as their code points, where only plain text can stand. */
export function markHidden(text: string): string {
  return splitHidden(text)
    .map((part) => part.text)
    .join("");
}
