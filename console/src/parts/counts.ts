/** Numbers of things in words. */

/** Return `1 target` or `1,203 targets`. */
export function countWords(count: number, one: string, several = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : several}`;
}

/** Return the number; a text that is none stays, so that the server says what is wrong with it. */
export function numberOr(text: string): number | string {
  const typed = text.trim();
  return /^\d{1,15}$/.test(typed) ? Number(typed) : typed;
}
