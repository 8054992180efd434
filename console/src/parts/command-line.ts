/** Commands and curl lines as a person would type them. */

const PLAIN = /^[A-Za-z0-9_@%+=:,./-]+$/;

/** Return a word as one word of a POSIX shell. */
export function quote(word: string): string {
  return PLAIN.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Return a command line of these words. */
export function commandLine(...words: string[]): string {
  return words.map(quote).join(" ");
}

/** Return the curl line of a request; the token comes from the environment. */
export function curlLine(method: string, url: string, body?: unknown): string {
  const words = ["curl -sS"];
  if (method !== "GET") words.push("-X", method);
  words.push('-H "Authorization: Bearer $OPSJOBS_TOKEN"');
  if (body !== undefined)
    words.push("-H 'Content-Type: application/json'", "-d", quote(JSON.stringify(body)));
  words.push(quote(url));
  return words.join(" ");
}
