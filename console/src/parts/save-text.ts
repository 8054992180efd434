/** Texts that the browser stores as a file. */

/** Long enough for a browser to begin the download. */
const KEEP_MS = 60_000;

/** Download a text under a name made of this one. No link of the page holds the text. */
export function saveText(text: string, name: string, extension: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  link.download = `${name.replace(/[^\w.-]+/g, "-")}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEEP_MS);
}
