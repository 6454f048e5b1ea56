import { deepStrictEqual, ok } from "node:assert";
import test from "node:test";
import { NODE, layersOf, layout } from "../../../../console/static/layout.js";

const node = (name, kind = "service") => ({ name, kind });
const edge = (from, to) => ({ from, to });
const NODES = [node("gateway", "gateway"), node("order"), node("outside", "client"), node("pg", "store"), node("scim", "unknown"), node("status"), node("sync")];
const EDGES = [
  edge("outside", "gateway"), edge("gateway", "order"), edge("gateway", "status"), edge("gateway", "sync"), edge("order", "sync"),
  edge("status", "sync"), edge("order", "pg"), edge("sync", "pg"), edge("sync", "scim"), edge("status", "pg"),
];

test("callers come before callees, what calls nobody last", () => {
  const layers = layersOf(NODES, EDGES).map((layer) => layer.sort());
  deepStrictEqual(layers, [["outside"], ["gateway"], ["order", "status"], ["sync"], ["pg", "scim"]]);
});

test("rings, loops and edges to nowhere end", () => {
  const ring = layersOf([node("a"), node("b"), node("c")], [edge("a", "b"), edge("b", "c"), edge("c", "a"), edge("b", "b")]);
  deepStrictEqual(ring, [["a"], ["b"], ["c"]]);
  const drawn = layout([node("a"), node("b")], [edge("a", "b"), edge("b", "a")]);
  ok(drawn.edges.every((one) => !one.path.includes("NaN")));
});

test("nothing is drawn for nothing, and one node for one", () => {
  deepStrictEqual(layout([], []).nodes, []);
  deepStrictEqual(layout([node("a")], []).nodes, [{ name: "a", x: 16, y: 16 }]);
});

for (const tall of [false, true]) {
  const plan = layout(NODES, EDGES, { tall });

  test(`nodes do not overlap and lie within the drawing, tall: ${tall}`, () => {
    plan.nodes.forEach((a, n) => {
      ok(a.x >= 0 && a.y >= 0 && a.x + NODE.width <= plan.width && a.y + NODE.height <= plan.height);
      for (const b of plan.nodes.slice(n + 1)) {
        ok(Math.abs(a.x - b.x) >= NODE.width || Math.abs(a.y - b.y) >= NODE.height, `${a.name} over ${b.name}`);
      }
    });
  });

  test(`no edge runs behind a node that it has nothing to do with, tall: ${tall}`, () => {
    plan.edges.forEach(({ path }, n) => {
      for (const [x, y] of along(path)) {
        for (const at of plan.nodes.filter(({ name }) => name !== EDGES[n].from && name !== EDGES[n].to)) {
          ok(!(x > at.x && x < at.x + NODE.width && y > at.y && y < at.y + NODE.height), `${EDGES[n].from} to ${EDGES[n].to} behind ${at.name}`);
        }
      }
    });
  });

  test(`labels stay apart, tall: ${tall}`, () => {
    const clashes = plan.edges.filter((a, n) => plan.edges.slice(n + 1).some((b) => Math.abs(a.label.x - b.label.x) < 112 && Math.abs(a.label.y - b.label.y) < 20));
    deepStrictEqual(clashes, []);
  });
}

test("a thousand services are laid out at all", () => {
  const nodes = Array.from({ length: 1000 }, (_, n) => node(`s${n}`));
  const drawn = layout(nodes, nodes.slice(1).map((one, n) => edge(`s${Math.floor(n / 2)}`, one.name)));
  deepStrictEqual(drawn.nodes.length, 1000);
});

// Points on a path of cubic Bézier curves.
function along(path) {
  const numbers = path.match(/-?[\d.]+/g).map(Number);
  const points = [];
  let last = numbers.splice(0, 2);
  while (numbers.length) {
    const [a, b, c, d, e, f] = numbers.splice(0, 6);
    for (let t = 0; t <= 1; t += 0.05) {
      const u = 1 - t;
      const one = (p, q, r, s) => u ** 3 * p + 3 * u * u * t * q + 3 * u * t * t * r + t ** 3 * s;
      points.push([one(last[0], a, c, e), one(last[1], b, d, f)]);
    }
    last = [e, f];
  }
  return points;
}
