import assert from "node:assert/strict";
import { test } from "node:test";
import { reasonOf } from "../../../../console/static/api.js";

test("why something was refused", () => {
  const info = { "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "EVENTS_EXPIRED" };
  for (const [body, reason] of [
    [{ code: 11, message: "too late", details: [info] }, "EVENTS_EXPIRED"],
    [{ code: 11, details: [{ "@type": "type.googleapis.com/google.rpc.BadRequest" }, info] }, "EVENTS_EXPIRED"],
    [{ code: 11, message: "too late" }, ""],
    [{ details: "none" }, ""],
    [null, ""],
  ]) assert.equal(reasonOf(body), reason);
});
