import assert from "node:assert/strict";
import { test } from "node:test";
import { otherAddress } from "../src/state/single-sign-on.ts";

test("a login ends at this page's address, or the other one is named", () => {
  const page = new URL("http://127.0.0.1:8003/console/access");
  Object.assign(globalThis, { location: page });
  const path = "/api/v1/auth/oidc";
  assert.equal(otherAddress(path), null);
  assert.equal(otherAddress(`http://127.0.0.1:8003${path}`), null);
  assert.equal(otherAddress(`http://localhost:8003${path}`), "http://localhost:8003");
  assert.equal(otherAddress(`https://jobs.example.org${path}`), "https://jobs.example.org");
});
