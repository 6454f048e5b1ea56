// Where nodes and edges of the map go: in layers, from callers to callees. Pure: sizes in, coordinates out.
//
// Within this module everything is drawn left to right: `x` is along the calls, `y` across them. A tall map (for a phone)
// is turned at the end. An edge that passes a layer has a lane of its own there, so that it runs behind no node.

export const NODE = { width: 176, height: 64 };
const GAP = { layer: 132, node: 32 };
const LANE = 16;
const MARGIN = 16;
const LABEL = { width: 112, height: 32 };
const ROUNDS = 8;

// `nodes` are {name, kind}, `edges` {from, to}, one for each pair. Layers go left to right, or down with `tall`.
// Answers {width, height, nodes: [{name, x, y}], edges: [{path, tip, label: {x, y}}]}, each in the order given;
// x and y are those of a node's top left corner, and of a label's middle.
export function layout(nodes, edges, { tall = false } = {}) {
  const size = tall ? { along: NODE.height, across: NODE.width } : { along: NODE.width, across: NODE.height };
  const layers = layersOf(nodes, edges);
  const chains = lanes(layers, edges);
  const places = place(order(layers, chains), chains, size);
  const turn = tall ? ({ x, y }) => ({ x: y, y: x }) : (point) => point;
  const corner = (at) => turn({ x: at.x, y: at.y - size.across / 2 });
  const taken = nodes.map(({ name }) => ({ ...corner(places.get(name)), ...NODE }));
  const far = extent(nodes.map(({ name }) => corner(places.get(name))));
  const ports = portsOf(chains, places, size);
  return {
    width: far.x + NODE.width + MARGIN,
    height: far.y + NODE.height + MARGIN,
    nodes: nodes.map(({ name }) => ({ name, ...rounded(corner(places.get(name))) })),
    edges: chains.map((chain, n) => draw(curves(chain, places, ports[n], size).map((curve) => curve.map(turn)), taken)),
  };
}

// Names by layer: as far from the start as the longest way there, and whatever calls nobody, as stores do, in the last one.
export function layersOf(nodes, edges) {
  const names = nodes.map((node) => node.name);
  const next = new Map(names.map((name) => [name, []]));
  for (const { from, to } of edges) if (from !== to && next.has(from) && next.has(to)) next.get(from).push(to);
  const depth = depths(roots(names, nodes, edges), names, next);
  const isLast = ({ name, kind }) => kind === "store" || (kind === "unknown" && !next.get(name).length);
  const last = Math.max(0, ...nodes.filter((node) => !isLast(node)).map((node) => depth.get(node.name)));
  const layers = [];
  for (const node of nodes) {
    const { name } = node;
    const at = isLast(node) ? Math.max(last + 1, depth.get(name)) : depth.get(name);
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

// For each edge what it passes: from, a lane in each layer between (added to it), to.
function lanes(layers, edges) {
  const depth = new Map(layers.flatMap((layer, at) => layer.map((name) => [name, at])));
  return edges.map(({ from, to }, n) => {
    const between = [];
    for (let at = depth.get(from) + 1; at < depth.get(to); at += 1) {
      const lane = `\0${n}/${at}`;
      layers[at].push(lane);
      between.push(lane);
    }
    return [from, ...between, to];
  });
}

const isLane = (name) => name.startsWith("\0");

// Within each layer, by the middle of its neighbours: fewer edges cross.
function order(layers, chains) {
  const near = neighbours(chains);
  let found = layers.map((layer) => [...layer].sort((a, b) => isLane(a) - isLane(b) || (a < b ? -1 : 1)));
  for (let round = 0; round < ROUNDS; round += 1) {
    const at = new Map(found.flatMap((layer) => layer.map((name, n) => [name, n - (layer.length - 1) / 2])));
    found = found.map((layer) => layer
      .map((name, n) => [name, mean((near.get(name) ?? []).map((one) => at.get(one)), at.get(name)), n])
      .sort((a, b) => a[1] - b[1] || a[2] - b[2])
      .map(([name]) => name));
  }
  return found;
}

function neighbours(chains) {
  const near = new Map();
  const add = (one, other) => near.set(one, [...(near.get(one) ?? []), other]);
  for (const chain of chains) {
    for (let n = 1; n < chain.length; n += 1) {
      add(chain[n - 1], chain[n]);
      add(chain[n], chain[n - 1]);
    }
  }
  return near;
}

const mean = (values, otherwise) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : otherwise);

// The left end and the middle of each node and lane: as near to its neighbours' middle as order and room allow.
function place(layers, chains, size) {
  const near = neighbours(chains);
  const thick = (name) => (isLane(name) ? LANE : size.across);
  const apart = (a, b) => (thick(a) + thick(b)) / 2 + (isLane(a) || isLane(b) ? LANE : GAP.node);
  const y = new Map();
  for (const layer of layers) layer.forEach((name, n) => y.set(name, n ? y.get(layer[n - 1]) + apart(layer[n - 1], name) : 0));
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const layer of round % 2 ? [...layers].reverse() : layers) {
      const wanted = layer.map((name) => mean((near.get(name) ?? []).map((one) => y.get(one)), y.get(name)));
      const given = [];
      wanted.forEach((want, n) => given.push(n ? Math.max(want, given[n - 1] + apart(layer[n - 1], layer[n])) : want));
      const shift = mean(wanted.map((want, n) => want - given[n]), 0);
      layer.forEach((name, n) => y.set(name, given[n] + shift));
    }
  }
  const least = Math.min(...layers.flat().map((name) => y.get(name) - thick(name) / 2));
  const step = size.along + GAP.layer * (size.along > size.across ? 1 : 0.9);
  return new Map(layers.flatMap((layer, at) => layer.map((name) => [name, { x: MARGIN + at * step, y: y.get(name) - least + MARGIN }])));
}

const extent = (corners) => corners.reduce((far, at) => ({ x: Math.max(far.x, at.x), y: Math.max(far.y, at.y) }), { x: 0, y: 0 });

// Where each edge leaves and reaches its nodes: those on one side of a node share it evenly, in the order of where they go.
function portsOf(chains, places, size) {
  const sides = new Map();
  const add = (name, side, n, end, other) => {
    const key = `${side}${name}`;
    sides.set(key, [...(sides.get(key) ?? []), { n, end, y: places.get(other).y, at: places.get(name) }]);
  };
  chains.forEach((chain, n) => {
    const [from, to] = [chain[0], chain[chain.length - 1]];
    add(from, "out", n, 0, chain[1]);
    add(to, places.get(to).x > places.get(from).x ? "in" : "out", n, 1, chain[chain.length - 2]);
  });
  const ports = chains.map(() => []);
  for (const side of sides.values()) {
    side.sort((a, b) => a.y - b.y || a.n - b.n);
    side.forEach(({ n, end, at }, nth) => {
      ports[n][end] = at.y + size.across * ((nth + 1) / (side.length + 1) - 0.5);
    });
  }
  return ports;
}

// The Bézier curves of an edge, four points each; straight within a layer.
function curves(chain, places, [start, end], size) {
  const [from, to] = [places.get(chain[0]), places.get(chain[chain.length - 1])];
  const begin = { x: from.x + size.along, y: start };
  if (to.x <= from.x) return [back(begin, { x: to.x + size.along, y: end })];
  const found = [];
  let last = begin;
  for (const name of chain.slice(1, -1)) {
    const { x, y } = places.get(name);
    found.push(forth(last, { x, y }), forth({ x, y }, { x: x + size.along, y }));
    last = { x: x + size.along, y };
  }
  return [...found, forth(last, { x: to.x, y: end })];
}

function forth(a, b) {
  const reach = (b.x - a.x) / 2;
  return [a, { x: a.x + reach, y: a.y }, { x: b.x - reach, y: b.y }, b];
}

function back(a, b) {
  const far = Math.max(a.x, b.x) + 64 + Math.abs(a.y - b.y) / 4;
  return [a, { x: far, y: a.y }, { x: far, y: b.y }, b];
}

function draw(parts, taken) {
  const spot = room(parts, taken);
  taken.push(box(spot));
  const last = parts[parts.length - 1];
  return {
    path: `M${text(parts[0][0])}${parts.map(([, one, two, end]) => `C${text(one)} ${text(two)} ${text(end)}`).join("")}`,
    tip: tip(last[3], last[2]),
    label: rounded(spot),
  };
}

const TRIES = [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82, 0.1, 0.9];

// The first place on the way where a label covers neither a node nor another label; else the middle of the way.
function room(parts, taken) {
  const middle = Math.floor(parts.length / 2);
  const ways = [parts[middle], ...parts.filter((one, n) => n !== middle)];
  const free = ways.flatMap((one) => TRIES.map((t) => at(one, t))).find((spot) => !taken.some((one) => overlap(one, box(spot))));
  return free ?? at(ways[0], 0.5);
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
const rounded = ({ x, y }) => ({ x: round(x), y: round(y) });
const text = ({ x, y }) => `${round(x)} ${round(y)}`;
