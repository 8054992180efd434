/** Overriding the safety check or an approval, in the words of the console's buttons. */

/** Return a text of the API without the names of its fields. */
export function overrideWords(text: string): string {
  return text
    .replace("pass override_safety: true and a reason", "override the check with a reason")
    .replace("with override_safety: true and a reason", "with Override and a reason");
}
