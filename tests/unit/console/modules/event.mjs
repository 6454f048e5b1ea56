import assert from "node:assert/strict";
import { test } from "node:test";
import { about, rewound, traceOf } from "../../../../console/static/event.js";

test("what an event says", () => {
  const order = { id: "12345678-9abc", total: { units: "24", nanos: 500_000_000, currencyCode: "EUR" } };
  for (const [event, told] of [
    [{ type: "order.created", order }, ["created", "12345678 · 24.50 EUR", ""]],
    [{ type: "order.failed", order: { id: "1", failure: "no such customer" } }, ["failed", "1 · no such customer", "bad"]],
    [{ type: "order.cancelled", order: { id: "1", cancelReason: "GONE" } }, ["cancelled", "1 · GONE", ""]],
    [{ type: "user.updated", subject: "7", user: { userName: "ann" } }, ["updated", "ann", ""]],
    [{ type: "sync.succeeded", sync: { provider: "scim", counts: { fetched: 3 } } }, ["succeeded", "scim · 3 users", "ok"]],
    [{ type: "cart.emptied", subject: "9" }, ["emptied", "9", ""]],
  ]) assert.deepEqual(about(event), told);
});

test("the trace of an event", () => {
  assert.equal(traceOf({ traceparent: `00-${"a".repeat(32)}-${"b".repeat(16)}-01` }), "a".repeat(32));
  assert.equal(traceOf({}), "");
  assert.equal(traceOf({ traceparent: "00-../../x" }), "");
});

test("a place some events back", () => {
  assert.equal(rewound("order-12,sync-907", 20), "order-0,sync-887");
});
