// Where nodes and edges of the map go: in layers, from callers to callees. Pure: sizes in, coordinates out.

export const NODE = { width: 184, height: 64 };
const GAP = { layer: 168, node: 40 };
const TALL = { layer: 88, node: 24 };
const MARGIN = 24;
const LABEL = { width: 116, height: 20 };
const ROUNDS = 8;

// `nodes` are {name, kind}, `edges` {from, to, kind}. Layers go left to right, or down with `tall` (a phone).
// Answers {width, height, nodes: [{name, x, y}], edges: [{path, tip, label: {x, y}}]}, each in the order given;
// x and y are those of a node's top left corner, and of a label's middle.
export function layout(nodes, edges, { tall = false } = {}) {
  const layers = order(layersOf(nodes, edges), edges);
  const places = place(layers, tall);
  const taken = [...places.values()].map((at) => ({ ...at, ...NODE }));
  const far = extent(places);
  return {
    width: far.x + NODE.width + MARGIN,
    height: far.y + NODE.height + MARGIN,
    nodes: nodes.map(({ name }) => ({ name, ...places.get(name) })),
    edges: edges.map((edge) => draw(edge, edges, places, taken, tall)),
  };
}

// Names by layer: as far from the start as the longest way there, and stores behind everything that may call them.
export function layersOf(nodes, edges) {
  const names = nodes.map((node) => node.name);
  const next = new Map(names.map((name) => [name, []]));
  for (const { from, to } of edges) if (from !== to && next.has(from) && next.has(to)) next.get(from).push(to);
  const depth = depths(roots(names, nodes, edges), names, next);
  const last = Math.max(0, ...nodes.filter((node) => node.kind !== "store").map((node) => depth.get(node.name)));
  const layers = [];
  for (const { name, kind } of nodes) {
    const at = kind === "store" ? Math.max(last + 1, depth.get(name)) : depth.get(name);
    (layers[at] ??= []).push(name);
  }
  return layers.filter(Boolean);
}

// Whoever nobody calls comes first, those outside before all.
function roots(names, nodes, edges) {
  const called = new Set(edges.filter((edge) => edge.from !== edge.to).map((edge) => edge.to));
  const outside = nodes.filter((node) => node.kind === "client").map((node) => node.name);
  return [...new Set([...outside, ...names.filter((name) => !called.has(name)), ...names])];
}

// The longest way from a root, leaving out edges that lead back. Without recursion: a chain may be long.
function depths(starts, names, next) {
  const finished = [];
  const state = new Map();
  const forth = new Map(names.map((name) => [name, []]));
  for (const start of starts) {
    const stack = [[start, 0]];
    while (stack.length) {
      const top = stack[stack.length - 1];
      const [name, at] = top;
      if (at === 0 && state.get(name) === 2) {
        stack.pop();
        continue;
      }
      state.set(name, 1);
      if (at < next.get(name).length) {
        top[1] += 1;
        const to = next.get(name)[at];
        if (state.get(to) !== 1) {
          forth.get(name).push(to);
          if (state.get(to) !== 2) stack.push([to, 0]);
        }
      } else {
        state.set(name, 2);
        finished.push(name);
        stack.pop();
      }
    }
  }
  const depth = new Map(names.map((name) => [name, 0]));
  for (const name of finished.reverse()) {
    for (const to of forth.get(name)) depth.set(to, Math.max(depth.get(to), depth.get(name) + 1));
  }
  return depth;
}

// Within each layer, by the middle of its neighbours: fewer edges cross.
function order(layers, edges) {
  const near = new Map();
  for (const { from, to } of edges) {
    near.set(from, [...(near.get(from) ?? []), to]);
    near.set(to, [...(near.get(to) ?? []), from]);
  }
  let found = layers.map((layer) => [...layer].sort());
  for (let round = 0; round < ROUNDS; round += 1) {
    const at = new Map(found.flatMap((layer) => layer.map((name, n) => [name, n - (layer.length - 1) / 2])));
    found = found.map((layer) => layer
      .map((name, n) => [name, middle((near.get(name) ?? []).map((one) => at.get(one)).filter((one) => one !== undefined), n - (layer.length - 1) / 2), n])
      .sort((a, b) => a[1] - b[1] || a[2] - b[2])
      .map(([name]) => name));
  }
  return found;
}

const middle = (values, otherwise) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : otherwise);

function place(layers, tall) {
  const gap = tall ? TALL : GAP;
  const step = (tall ? NODE.width : NODE.height) + gap.node;
  const most = Math.max(1, ...layers.map((layer) => layer.length));
  const places = new Map();
  layers.forEach((layer, depth) => {
    layer.forEach((name, n) => {
      const across = MARGIN + (n + (most - layer.length) / 2) * step;
      const along = MARGIN + depth * ((tall ? NODE.height : NODE.width) + gap.layer);
      places.set(name, tall ? { x: across, y: along } : { x: along, y: across });
    });
  });
  return places;
}

const extent = (places) => [...places.values()].reduce(
  (far, at) => ({ x: Math.max(far.x, at.x), y: Math.max(far.y, at.y) }), { x: MARGIN, y: MARGIN });

function draw(edge, edges, places, taken, tall) {
  const points = curve(edge, edges, places, tall);
  const label = room(points, taken);
  taken.push(box(label));
  const [start, one, two, end] = points;
  return {
    path: `M${text(start)} C${text(one)} ${text(two)} ${text(end)}`,
    tip: tip(end, two),
    label: { x: round(label.x), y: round(label.y) },
  };
}

// Four points of a Bézier curve. Edges that leave or reach a node by one side share that side evenly.
function curve(edge, edges, places, tall) {
  const from = places.get(edge.from);
  const to = places.get(edge.to);
  const along = tall ? "y" : "x";
  const forward = to[along] > from[along];
  const [out, into] = forward ? ["out", "in"] : ["back", "back"];
  const start = port(edge, "from", edges, places, tall, out);
  const end = port(edge, "to", edges, places, tall, into);
  const reach = forward ? (end[along] - start[along]) / 2 : 96 + Math.abs(end[along] - start[along]) / 4;
  const shift = (point, by) => ({ ...point, [along]: point[along] + by });
  return forward ? [start, shift(start, reach), shift(end, -reach), end] : [start, shift(start, reach), shift(end, reach), end];
}

// Where an edge touches a node: at the far side to go forth, also to turn back; at the near side to come in.
function port(edge, end, edges, places, tall, way) {
  const name = edge[end];
  const at = places.get(name);
  const across = tall ? "x" : "y";
  const side = way === "in" ? "in" : "out";
  const mine = edges.filter((one) => sides(one, places, tall).some(([node, where]) => node === name && where === side));
  const other = (one) => places.get(one.from === name ? one.to : one.from);
  mine.sort((a, b) => other(a)[across] - other(b)[across] || edges.indexOf(a) - edges.indexOf(b));
  const share = (mine.indexOf(edge) + 1) / (mine.length + 1);
  if (tall) return { x: at.x + NODE.width * share, y: at.y + (side === "out" ? NODE.height : 0) };
  return { x: at.x + (side === "out" ? NODE.width : 0), y: at.y + NODE.height * share };
}

function sides(edge, places, tall) {
  const along = tall ? "y" : "x";
  const forward = places.get(edge.to)[along] > places.get(edge.from)[along];
  return [[edge.from, "out"], [edge.to, forward ? "in" : "out"]];
}

const TRIES = [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.2, 0.8];

// The first place on the curve where a label covers neither a node nor another label; else its middle.
function room(points, taken) {
  const free = TRIES.map((t) => at(points, t)).find((spot) => !taken.some((one) => overlap(one, box(spot))));
  return free ?? at(points, 0.5);
}

const box = (spot) => ({ x: spot.x - LABEL.width / 2, y: spot.y - LABEL.height / 2, width: LABEL.width, height: LABEL.height });

const overlap = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

function at([a, b, c, d], t) {
  const u = 1 - t;
  const one = (axis) => u ** 3 * a[axis] + 3 * u * u * t * b[axis] + 3 * u * t * t * c[axis] + t ** 3 * d[axis];
  return { x: one("x"), y: one("y") };
}

// A small arrow head at the end.
function tip(end, before) {
  const length = Math.hypot(end.x - before.x, end.y - before.y) || 1;
  const [x, y] = [(end.x - before.x) / length, (end.y - before.y) / length];
  const corner = (side) => ({ x: end.x - 8 * x + side * 4 * y, y: end.y - 8 * y - side * 4 * x });
  return `M${text(end)} L${text(corner(1))} L${text(corner(-1))} Z`;
}

const round = (value) => Math.round(value * 10) / 10;
const text = ({ x, y }) => `${round(x)} ${round(y)}`;
