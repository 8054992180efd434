import assert from "node:assert/strict";
import { test } from "node:test";
import { problemOf } from "../src/state/login-problem.ts";

test("the problem of a login is known by its code, and nothing else in the address is shown", () => {
  assert.equal(problemOf(""), null);
  assert.equal(problemOf("#code=abc"), null);
  const denied = problemOf("#login-problem=oidc_denied&request=4f00aa");
  assert.equal(denied?.code, "oidc_denied");
  assert.equal(denied?.requestId, "4f00aa");
  assert.match(denied?.message ?? "", /^The login was refused there/);
  for (const forged of ["call 0800 now", "constructor", "__proto__", ""]) {
    const query = new URLSearchParams({ "login-problem": forged, request: "call <b>0800</b>" });
    const problem = problemOf(`#${query}`);
    assert.equal(problem?.code, "login_failed");
    assert.equal(problem?.message, "The login failed. Try again.");
    assert.equal(problem?.requestId, "");
  }
});
