/** Start of the console. */
// Before all others, so that a page can change what they say.
import "./style/tokens.css";
import "./style/base.css";
import "./style/shell.css";
import "./style/parts.css";
import { render } from "preact";
import { watchUse } from "./api/attended.ts";
import { startKeyboard } from "./parts/keyboard.tsx";
import { Shell } from "./parts/shell.tsx";
import { listen } from "./router.tsx";
import { loginProblem, problemOf } from "./state/login-problem.ts";
import { loadMe, login } from "./state/session.ts";

listen();
startKeyboard();
watchUse(window);
render(<Shell />, document.getElementById("app")!);
void start();

/** Log in with the code of `/console/#code=…`, if there is one: it is valid once. */
async function start(): Promise<void> {
  loginProblem.value = problemOf(location.hash);
  if (loginProblem.value) history.replaceState(null, "", location.pathname + location.search);
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code) {
    history.replaceState(null, "", location.pathname + location.search);
    try {
      return await login({ code });
    } catch {
      // Used, or too old: the login says how to get another one.
    }
  }
  await loadMe();
}
