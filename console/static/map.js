// The service map: who calls whom within the last minute, how fast, and what fails; live.
import { followTopic, get } from "./api.js";
import { el, empty, facts, link, svg } from "./dom.js";
import { duration, percent, plural, rate } from "./format.js";
import { NODE, layout } from "./layout.js";
import { table } from "./table.js";

export const title = () => "Map";

const NARROW = 700;
const FAILING = 0.01;

export async function open({ root, query, signal, live, put }) {
  const page = new Page(query, put);
  root.append(page.node);
  page.show(await get("/console/data/map", signal));
  followTopic("map", (state) => page.show(state), live, signal);
  addEventListener("resize", () => page.fit(), { signal });
}

// What is selected: `node:NAME` or `edge:FROM|TO`, also in the address.
const nodeKey = (node) => `node:${node.name}`;
const edgeKey = (edge) => `edge:${edge.from}|${edge.to}`;

class Page {
  constructor(query, put) {
    this.put = put;
    this.selected = query.get("selected") ?? "";
    this.stage = el("div", { class: "card stage" });
    this.aside = el("aside", { class: "card", "aria-label": "Details", hidden: true });
    this.note = el("span", { class: "quiet" }, "calls of the last minute");
    this.list = table(COLUMNS, { label: "Calls of the last minute" });
    this.node = el("div", {},
      el("div", { class: "head" }, el("h1", {}, "Service map"), this.note),
      el("div", { class: "map" },
        el("div", {}, this.stage, el("details", {}, el("summary", {}, "The same as a table"), el("div", { class: "card" }, this.list.node))),
        this.aside),
    );
  }

  show(state) {
    this.state = state;
    const shape = JSON.stringify([state.nodes.map((node) => [node.name, node.kind]), state.edges.map(edgeKey), narrow()]);
    if (shape !== this.shape) this.draw(shape);
    this.figures();
    this.list.update(state.edges);
    this.detail();
  }

  // The window has another size: perhaps the other way of drawing.
  fit() {
    if (this.state) this.show(this.state);
  }

  draw(shape) {
    this.shape = shape;
    const { nodes, edges } = this.state;
    if (!nodes.length) {
      this.parts = [];
      this.stage.replaceChildren(empty("No spans yet. Send some traffic, and the map draws itself."));
      return;
    }
    const plan = layout(nodes, edges, { tall: narrow() });
    const least = 0.7 * plan.width;
    const focused = document.activeElement?.dataset?.key;
    const drawnEdges = edges.map((edge, n) => this.edge(edge, plan.edges[n]));
    const drawnNodes = nodes.map((node, n) => this.box(node, plan.nodes[n]));
    this.parts = [...drawnEdges, ...drawnNodes];
    this.stage.replaceChildren(svg("svg", {
      viewBox: `0 0 ${plan.width} ${plan.height}`, role: "group", "aria-label": "Services and their calls",
      style: { width: "100%", "max-width": `${plan.width}px`, "min-width": `${least}px` } },
      drawnEdges.map((part) => part.node), drawnEdges.map((part) => part.label), drawnNodes.map((part) => part.node)));
    if (focused) this.parts.find((part) => part.key === focused)?.node.focus();
  }

  pressable(key, tag, attributes, ...children) {
    const press = () => this.select(key);
    const node = svg(tag, { ...attributes, tabindex: "0", role: "button", on: { click: press, keydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      press();
    } } }, ...children);
    node.dataset.key = key;
    return node;
  }

  box(node, at) {
    const name = svg("text", { class: "name", x: 20, y: 24 });
    const figures = svg("text", { class: "figures", x: 20, y: 48 });
    const state = svg("text", { class: "state", x: NODE.width - 12, y: 24, "text-anchor": "end" });
    const dots = svg("g", {});
    const group = this.pressable(nodeKey(node), "g", { class: "node", transform: `translate(${at.x} ${at.y})` },
      svg("rect", { class: `box ${node.kind}`, width: NODE.width, height: NODE.height, rx: 8 }),
      svg("path", { class: "stripe", d: `M8 0h-0a8 8 0 0 0-8 8v${NODE.height - 16}a8 8 0 0 0 8 8z` }),
      svg("title", {}, node.name), name, state, figures, dots);
    return { key: nodeKey(node), node: group, update: (now) => {
      group.dataset.health = now.health;
      group.setAttribute("aria-label", `${now.name}, ${now.kind}, ${now.health}, ${said(now)}`);
      figures.textContent = now.kind === "client" ? "callers without spans" : brief(now);
      state.textContent = ["degraded", "down"].includes(now.health) ? now.health : "";
      dots.replaceChildren(...(state.textContent || now.kind !== "service" ? [] : now.instances.slice(0, 8).map(dot)));
      const beside = state.textContent ? state.getComputedTextLength() + 8 : dots.childElementCount * 12;
      fit(name, now.name, NODE.width - 32 - beside);
    } };
  }

  edge(edge, { path, tip, label }) {
    const text = svg("text", { x: label.x, y: label.y + 4 });
    const plate = svg("rect", { class: "plate", x: label.x - 54, y: label.y - 9, width: 108, height: 18, rx: 4 });
    const curve = svg("path", { class: "curve", d: path });
    const group = this.pressable(edgeKey(edge), "g", { class: "edge" },
      svg("path", { class: "hit", d: path }), curve, svg("path", { class: "tip", d: tip }));
    const words = svg("g", { class: "edge", on: { click: () => this.select(edgeKey(edge)) } }, plate, text);
    return { key: edgeKey(edge), node: group, label: words, update: (now) => {
      curve.setAttribute("stroke-width", width(now.rate));
      for (const one of [group, words]) one.setAttribute("class", `edge${now.rate ? "" : " still"}${now.error_rate > FAILING ? " failing" : ""}`);
      group.setAttribute("aria-label", `${now.from} calls ${now.to} by ${now.kind}: ${said(now)}`);
      const failed = now.rate > 0 && now.error_rate > 0;
      text.setAttribute("y", label.y + (failed ? -4 : 4));
      text.replaceChildren(...(failed
        ? [rate(now.rate), " · ", svg("tspan", { class: "bad" }, percent(now.error_rate)), svg("tspan", { x: label.x, dy: 16 }, duration(now.p99))]
        : now.rate ? [`${rate(now.rate)} · ${duration(now.p99)}`] : []));
      plate.setAttribute("height", failed ? 34 : 18);
      plate.setAttribute("y", label.y - (failed ? 17 : 9));
      plate.setAttribute("visibility", now.rate ? "visible" : "hidden");
    } };
  }

  figures() {
    const now = new Map([...this.state.nodes.map((node) => [nodeKey(node), node]), ...this.state.edges.map((edge) => [edgeKey(edge), edge])]);
    for (const part of this.parts) {
      part.update(now.get(part.key));
      part.node.setAttribute("aria-pressed", String(part.key === this.selected));
    }
  }

  select(key) {
    this.selected = this.selected === key ? "" : key;
    this.put(new URLSearchParams(this.selected ? { selected: this.selected } : {}));
    this.figures();
    this.detail();
  }

  detail() {
    const node = this.state.nodes.find((one) => nodeKey(one) === this.selected);
    const edge = this.state.edges.find((one) => edgeKey(one) === this.selected);
    this.aside.hidden = !(node || edge);
    if (this.aside.hidden || this.aside.contains(document.activeElement)) return;
    const close = el("button", { type: "button", class: "plain", "aria-label": "Close", on: { click: () => {
      document.activeElement.blur();
      this.select(this.selected);
    } } }, "✕");
    this.aside.replaceChildren(
      el("div", { class: "panel-head" }, el("h2", {}, node ? node.name : `${edge.from} → ${edge.to}`), close),
      ...(node ? this.ofNode(node) : ofEdge(edge)));
  }

  ofNode(node) {
    const calls = (edges, other) => el("div", {}, edges.map((edge) => el("div", { class: "instance" },
      el("div", {}, edge[other], " ", el("span", { class: "quiet small" }, edge.kind)), el("div", { class: "small quiet" }, said(edge)))));
    const inward = this.state.edges.filter((edge) => edge.to === node.name);
    const outward = this.state.edges.filter((edge) => edge.from === node.name);
    const spans = ["service", "gateway"].includes(node.kind);
    return [
      facts([["Health", health(node)], ["Kind", KINDS[node.kind]], ...figures(node)]),
      el("p", {}),
      spans && el("p", {},
        link(`/console/traces?service=${encodeURIComponent(node.name)}`, "Traces"), " · ",
        link(`/console/services/${encodeURIComponent(node.name)}`, "Methods and policy")),
      node.instances.length ? el("h2", {}, plural(node.instances.length, "instance")) : null,
      ...node.instances.map(instance),
      inward.length ? el("h2", {}, "Called by") : null, calls(inward, "from"),
      outward.length ? el("h2", {}, "Calls") : null, calls(outward, "to"),
    ].filter(Boolean);
  }
}

const KINDS = {
  service: "service", store: "store", gateway: "the edge, Envoy", client: "callers that send no spans",
  unknown: "no spans from there",
};

const WORDS = { passing: "ok", warning: "warn", critical: "bad" };

function instance(one) {
  const more = [one.zone && `zone ${one.zone}`, one.version && `version ${one.version}`, one.restarts !== null && plural(one.restarts, "restart")];
  return el("div", { class: "instance" },
    el("div", { class: "mono" }, one.id),
    el("div", {}, el("span", { class: WORDS[one.health] }, one.health), el("span", { class: "quiet" }, ` · ${one.address}`)),
    el("div", { class: "small quiet" }, more.filter(Boolean).join(" · ")),
    one.note ? el("div", { class: "small" }, one.note) : null);
}

const health = (node) => el("span", { class: { ok: "ok", degraded: "warn", down: "bad" }[node.health] }, node.health);

const figures = (one) => [
  ["Calls", rate(one.rate)], ["Errors", percent(one.error_rate)],
  ["p50", duration(one.p50)], ["p90", duration(one.p90)], ["p99", duration(one.p99)],
];

const ofEdge = (edge) => [
  facts([["Protocol", edge.kind || "unknown"], ...figures(edge)]),
  el("p", {}),
  el("p", {}, link(`/console/traces?service=${encodeURIComponent(edge.from === "outside" ? edge.to : edge.from)}`, "Traces of the caller")),
];

const brief = (one) => (one.rate ? `${rate(one.rate)} · ${one.error_rate ? percent(one.error_rate) : `p99 ${duration(one.p99)}`}` : "no calls");

const said = (one) => (one.rate ? `${rate(one.rate)} · ${percent(one.error_rate)} · p99 ${duration(one.p99)}` : "no calls");

const dot = (one, n) => svg("circle", { class: `dot ${one.health}`, cx: NODE.width - 16 - n * 12, cy: 19, r: 4 }, svg("title", {}, `${one.id} ${one.health}`));

const width = (perSecond) => Math.min(8, 1.5 + Math.log10(1 + perSecond) * 1.5).toFixed(1);

// A text as far as there is room for it, in the font that it has.
function fit(node, text, room) {
  node.textContent = text;
  let shown = text.length;
  while (shown > 1 && node.getComputedTextLength() > room) {
    shown -= 1;
    node.textContent = `${text.slice(0, shown).trimEnd()}…`;
  }
}

const narrow = () => innerWidth < NARROW;

const COLUMNS = [
  { title: "From", cell: (edge) => edge.from, sort: (edge) => edge.from },
  { title: "To", cell: (edge) => edge.to, sort: (edge) => edge.to },
  { title: "By", cell: (edge) => edge.kind, sort: (edge) => edge.kind },
  { title: "Calls", number: true, cell: (edge) => rate(edge.rate), sort: (edge) => edge.rate },
  { title: "Errors", number: true, cell: (edge) => percent(edge.error_rate), sort: (edge) => edge.error_rate },
  { title: "p50", number: true, cell: (edge) => duration(edge.p50), sort: (edge) => edge.p50 },
  { title: "p99", number: true, cell: (edge) => duration(edge.p99), sort: (edge) => edge.p99 },
];
