/** The end of a login in a tab of its own: go on in the other one. */
import { useEffect } from "preact/hooks";
import { Empty } from "../parts/empty.tsx";
import { Link } from "../router.tsx";
import { loginProblem } from "../state/login-problem.ts";
import { tellOtherTabs } from "../state/single-sign-on.ts";

export default function LoggedIn() {
  const failed = loginProblem.value !== null;
  useEffect(() => {
    if (!failed) tellOtherTabs();
  }, [failed]);
  return (
    <>
      <h1>{failed ? "The login failed" : "Logged in"}</h1>
      <Empty why="Close this tab, and go on in the one that you came from.">
        <Link to="/">Back to Now</Link>
      </Empty>
    </>
  );
}
