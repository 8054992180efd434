/** What a person likes, kept in this browser. Everything else about a page is in its URL. */
export interface Taste {
  theme: "system" | "light" | "dark";
  density: "normal" | "compact";
  clock: "local" | "utc";
  /** Keys without Ctrl or Alt, such as `j`; they disturb some speech and switch devices. */
  singleKeys: "on" | "off";
}

export const DEFAULTS: Taste = {
  theme: "system",
  density: "normal",
  clock: "local",
  singleKeys: "on",
};
const KEY = "opsjobs.taste";

/** Return the stored taste; the defaults if there is none or it cannot be read. */
export function readTaste(): Taste {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return DEFAULTS;
  }
}

export function storeTaste(taste: Taste): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(taste));
  } catch {
    // A browser may refuse storage; the choice then holds until the tab is closed.
  }
}

/** Make theme and density hold for the document. */
export function applyTaste(taste: Taste): void {
  const root = document.documentElement;
  root.dataset["theme"] = taste.theme;
  root.dataset["density"] = taste.density;
}
