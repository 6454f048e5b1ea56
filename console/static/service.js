// One service: its methods with their figures over time, what it answered with errors, its instances and its policy.
import { repeat } from "./api.js";
import { chart, trace } from "./chart.js";
import { breakable, el, empty, link, svg } from "./dom.js";
import { ago, duration, method, percent, rate } from "./format.js";
import { instances, section, tiles } from "./parts.js";
import { policy } from "./policy.js";
import { table } from "./table.js";

export const title = ({ name }) => name;

const EVERY_MS = 5000;
const NARROW = 600;
const MOST = 10;
const MINUTES = [["5", "5 minutes"], ["15", "15 minutes"], ["60", "hour"]];

export function open({ root, parameters, query, signal, live, put }) {
  const page = new Page(parameters.name, query, put);
  const path = () => `/console/data/services/${encodeURIComponent(parameters.name)}?minutes=${page.minutes}`;
  const ask = repeat(path, EVERY_MS, (found) => page.show(found), (state, error) => {
    live(state);
    if (error && !page.found) root.replaceChildren(empty(error.message));
  }, signal);
  page.asked = ask;
  root.append(page.node);
}

class Page {
  constructor(name, query, put) {
    this.name = name;
    this.put = put;
    this.chosen = query.get("method") ?? "";
    const wanted = query.get("minutes");
    this.minutes = MINUTES.some(([value]) => value === wanted) ? wanted : "15";
    this.figures = el("div", {});
    this.told = el("span", {});
    this.charts = el("div", { class: "charts" });
    this.methods = table(this.columns(), { label: "Methods", rowClass: (row) => (row.name === this.chosen ? "chosen" : null) });
    this.errors = table(errorColumns(), { label: "Recent errors" });
    [this.called, this.failed, this.places, this.rules] = Array.from({ length: 4 }, () => el("div", {}));
    this.node = el("div", {}, this.head(), this.figures, this.charts,
      section("Methods", "", this.called), section("Recent errors", this.told, this.failed),
      section("Instances", "", this.places), this.rules);
  }

  head() {
    const select = el("select", { "aria-label": "Time", on: { change: () => {
      this.minutes = select.value;
      this.remember();
      this.asked();
    } } }, MINUTES.map(([value, text]) => el("option", { value, selected: value === this.minutes }, `The last ${text}`)));
    return el("div", { class: "head" }, el("h1", {}, this.name),
      el("span", { class: "rest" }, el("span", {}, select), link(`/console/traces?service=${encodeURIComponent(this.name)}`, "Traces")));
  }

  remember() {
    this.put(new URLSearchParams([["method", this.chosen], ["minutes", this.minutes === "15" ? "" : this.minutes]].filter(([, value]) => value)));
  }

  choose(name) {
    this.chosen = this.chosen === name ? "" : name;
    this.remember();
    this.show(this.found);
  }

  show(found) {
    this.found = found;
    const one = found.methods.find((row) => row.name === this.chosen) ?? found.total;
    this.figures.replaceChildren(tiles([
      ["Calls", rate(one.rate)], ["Errors", percent(one.error_rate), one.error_rate ? "bad" : ""],
      ["p50", duration(one.p50)], ["p90", duration(one.p90)], ["p99", duration(one.p99)],
    ]));
    if (!this.charts.matches(":hover")) this.draw(one, one === found.total ? "" : ` of ${method(one.name)}`);
    this.methods.update(found.methods);
    this.errors.update(found.recent_errors.slice(0, MOST));
    this.told.textContent = found.recent_errors.length > MOST ? `the newest ${MOST}` : "";
    fill(this.called, found.methods.length && this.methods.node, "Nobody has called it meanwhile.");
    fill(this.failed, found.recent_errors.length && this.errors.node, "None.");
    fill(this.places, found.instances.length && instances(found.instances), "Nobody knows of any.");
    const said = JSON.stringify(found.explain);
    if (said !== this.said) this.rules.replaceChildren(...policy(this.name, found.explain));
    this.said = said;
  }

  // The step that is not over yet would look like a fall.
  draw(one, whose) {
    const series = one.series.slice(0, -1);
    const times = series.map((point) => point.at);
    const width = innerWidth < NARROW ? 320 : 560;
    const values = (key) => series.map((point) => point[key]);
    this.charts.replaceChildren(
      card(chart({ title: `Calls${whose}`, times, width, format: rate, lines: [
        { name: "calls", values: values("rate") },
        ...(values("errors").some(Boolean) ? [{ name: "errors", class: "bad", values: values("errors") }] : [])] })),
      card(chart({ title: `Duration${whose}`, times, width, format: duration, lines: [
        { name: "p50", class: "third", values: values("p50") }, { name: "p90", class: "second", values: values("p90") },
        { name: "p99", values: values("p99") }] })));
  }

  columns() {
    return [
      { title: "Method", cell: (row) => el("button", { type: "button", class: "link", "aria-pressed": String(row.name === this.chosen), on: { click: () => this.choose(row.name) } }, breakable(method(row.name))), sort: (row) => method(row.name) },
      { title: "Over time", hide: true, cell: (row) => spark(row.series.slice(0, -1)) },
      { title: "Calls", number: true, cell: (row) => rate(row.rate), sort: (row) => row.rate },
      { title: "Errors", number: true, cell: (row) => el("span", { class: row.error_rate ? "bad" : null }, percent(row.error_rate)), sort: (row) => row.error_rate },
      { title: "p50", number: true, cell: (row) => duration(row.p50), sort: (row) => row.p50 },
      { title: "p90", number: true, hide: true, cell: (row) => duration(row.p90), sort: (row) => row.p90 },
      { title: "p99", number: true, cell: (row) => duration(row.p99), sort: (row) => row.p99 },
    ];
  }
}

const card = (child) => el("div", { class: "card padded" }, child);

const fill = (place, node, otherwise) => {
  if (node) place.replaceChildren(node);
  else place.replaceChildren(empty(otherwise));
};

// Calls over time, as small as a word.
function spark(series) {
  const most = Math.max(...series.map((point) => point.rate), 0.001);
  const line = (key) => trace(series.map((point) => point[key]), (at) => (at * 120) / Math.max(1, series.length - 1), (value) => 18 - (16 * value) / most);
  return svg("svg", { class: "spark chart", viewBox: "0 0 120 20", "aria-hidden": "true" },
    svg("path", { class: "line second", d: line("rate") }), series.some((point) => point.errors) && svg("path", { class: "line bad", d: line("errors") }));
}

const errorColumns = () => [
  { title: "Call", cell: (row) => link(`/console/traces/${row.trace_id}?span=${row.span_id}`, method(row.method)) },
  { title: "Status", cell: (row) => el("span", { class: "bad" }, row.status || "error") },
  { title: "Message", hide: true, cell: (row) => row.message },
  { title: "Took", number: true, cell: (row) => duration(row.duration), sort: (row) => row.duration },
  { title: "When", number: true, cell: (row) => ago(row.at, Date.now()), sort: (row) => row.at },
];
