import { deepStrictEqual, strictEqual } from "node:assert";
import test from "node:test";
import { budget, criticalPath, read, selfTime, unfolded } from "../../../../console/static/tree.js";

// A span; times in milliseconds.
function span(id, parent, start, duration, tags = {}, more = {}) {
  return {
    traceID: "1", spanID: id, operationName: id, startTime: 1_000_000 + start * 1000, duration: duration * 1000, processID: "p1", logs: [],
    references: parent ? [{ refType: "CHILD_OF", traceID: "1", spanID: parent }] : [],
    tags: Object.entries(tags).map(([key, value]) => ({ key, value })), warnings: null, ...more,
  };
}

const trace = (...spans) => read({ traceID: "1", spans, processes: { p1: { serviceName: "order", tags: [{ key: "service.instance.id", value: "order-1" }] } } });
const ids = (spans) => spans.map((one) => one.id);
const pieces = (path) => path.map((piece) => [piece.span.id, piece.from, piece.to]).reverse();
const server = (more = {}) => ({ "span.kind": "server", ...more });
const client = (more = {}) => ({ "span.kind": "client", ...more });

test("spans come depth first, children by their start", () => {
  const found = trace(span("c", "a", 5, 1), span("d", "b", 2, 1), span("a", "", 0, 10), span("b", "a", 1, 3));
  deepStrictEqual(ids(found.spans), ["a", "b", "d", "c"]);
  deepStrictEqual(found.spans.map((one) => one.depth), [0, 1, 2, 1]);
  deepStrictEqual([found.start, found.duration, found.services], [1000, 10, 1]);
});

test("a parent that is not there has a stand-in that keeps its children together", () => {
  const found = trace(span("a", "gone", 0, 1), span("b", "gone", 2, 3));
  deepStrictEqual(ids(found.spans), ["gone", "a", "b"]);
  deepStrictEqual([found.missing, found.spans[0].missing, found.spans[0].start, found.spans[0].end], [1, true, 0, 5]);
  deepStrictEqual(pieces(criticalPath(found)), [["a", 0, 1], ["b", 2, 5]]);
});

test("spans that are each other's parents are all there, once", () => {
  const found = trace(span("a", "b", 0, 1), span("b", "a", 0, 2), span("c", "c", 0, 1));
  deepStrictEqual(ids(found.spans).sort(), ["a", "b", "c"]);
});

test("10,000 spans, one below the other, are no matter", () => {
  const chain = Array.from({ length: 10_000 }, (_, n) => span(`s${n}`, n ? `s${n - 1}` : "", 0, 1));
  const found = trace(...chain);
  strictEqual(found.spans[9_999].depth, 9_999);
  strictEqual(criticalPath(found).length, 1);
  strictEqual(unfolded(found.spans, new Set(["s4"])).length, 5);
});

test("SERVER spans below one call are its attempts", () => {
  const found = trace(span("call", "", 0, 60, client()), span("first", "call", 1, 5, server()), span("second", "call", 50, 5, server({ "meshwright.attempt": 2 })));
  deepStrictEqual(found.spans.map((one) => [one.id, one.attempt, one.attempts]), [["call", null, 0], ["first", 1, 2], ["second", 2, 2]]);
});

test("Envoy's attempts are calls of their own, below which the server is told the same only once", () => {
  const found = trace(
    span("edge", "", 0, 60, server()), span("try1", "edge", 1, 5, client()), span("try2", "edge", 10, 5, client({ "retry.count": "1" })),
    span("served", "try2", 11, 3, server({ "meshwright.attempt": 2 })),
  );
  deepStrictEqual(found.spans.map((one) => [one.id, one.attempt, one.attempts]), [["edge", null, 0], ["try1", 1, 2], ["try2", 2, 2], ["served", 2, 0]]);
});

test("two calls to one service are no attempts", () => {
  const found = trace(span("edge", "", 0, 60, server()), span("a", "edge", 1, 5, client()), span("b", "edge", 10, 5, client()));
  deepStrictEqual(found.spans.map((one) => one.attempts), [0, 0, 0]);
});

test("an attempt whose siblings were never received says its number", () => {
  const found = trace(span("call", "", 0, 60, client()), span("third", "call", 50, 5, server({ "meshwright.attempt": 3 })));
  deepStrictEqual([found.spans[1].attempt, found.spans[1].attempts], [3, 3]);
});

const PATHS = [
  ["one span", [span("a", "", 0, 10)], [["a", 0, 10]]],
  ["one after the other", [span("a", "", 0, 10), span("b", "a", 1, 3), span("c", "a", 5, 4)], [["a", 0, 1], ["b", 1, 4], ["a", 4, 5], ["c", 5, 9], ["a", 9, 10]]],
  ["side by side: what ended last", [span("a", "", 0, 10), span("b", "a", 1, 3), span("c", "a", 1, 8)], [["a", 0, 1], ["c", 1, 9], ["a", 9, 10]]],
  ["a child that outlives its parent counts until then", [span("a", "", 0, 10), span("b", "a", 2, 50)], [["a", 0, 2], ["b", 2, 10]]],
  ["a child that begins before its parent, by another clock", [span("a", "", 5, 5), span("b", "a", 0, 7)], [["b", 5, 7], ["a", 7, 10]]],
  ["a child after its parent is not waited for", [span("a", "", 0, 10), span("b", "a", 20, 5)], [["a", 0, 10]]],
  ["nor is an event that was sent", [span("a", "", 0, 10), span("b", "a", 2, 5, { "span.kind": "producer" })], [["a", 0, 10]]],
];
for (const [name, spans, wanted] of PATHS) test(`critical path: ${name}`, () => deepStrictEqual(pieces(criticalPath(trace(...spans))), wanted));

test("time of its own is what no child ran in, counted once", () => {
  const found = trace(span("a", "", 0, 10), span("b", "a", 1, 4), span("c", "a", 3, 4), span("d", "a", 9, 40));
  strictEqual(selfTime(found.known.get("a")), 3);
});

test("the deadline on its way down, Envoy's from its header", () => {
  const found = trace(
    span("edge", "", 0, 60, server({ "grpc.timeout": "100m" })), span("call", "edge", 5, 50, client()),
    span("served", "call", 10, 200, server({ "meshwright.deadline_seconds": 0.09 })),
  );
  deepStrictEqual(budget(found.known.get("served"), found.known).map((hop) => [hop.span.id, hop.given, hop.used, hop.left]), [["edge", 100, 60, 40], ["served", 90, 200, -110]]);
});

test("statuses by name, errors however they are spelled", () => {
  const status = (tags) => trace(span("a", "", 0, 1, tags)).spans[0];
  strictEqual(status({ "grpc.status_code": "14" }).status, "UNAVAILABLE");
  strictEqual(status({ "rpc.response.status_code": "NOT_FOUND" }).status, "NOT_FOUND");
  strictEqual(status({ "http.status_code": "0" }).status, "no answer");
  deepStrictEqual([status({ error: "true" }).error, status({ error: true }).error, status({ error: "false" }).error], [true, true, false]);
});
