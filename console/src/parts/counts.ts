/** Numbers of things in words. */

/** Return `1 target` or `1,203 targets`. */
export function countWords(count: number, one: string, several = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : several}`;
}
