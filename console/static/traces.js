// Search of traces: the address has the query, so that a search can be shared.
import { get } from "./api.js";
import { el, empty, link, svg } from "./dom.js";
import { ago, clock, duration, method, plural } from "./format.js";
import { ceiling } from "./chart.js";
import { table } from "./table.js";

export const title = () => "Traces";

const FIELDS = ["service", "operation", "minDuration", "maxDuration", "tags", "within", "limit"];
const WITHIN = [["", "Any time"], ["5m", "Last 5 minutes"], ["15m", "Last 15 minutes"], ["1h", "Last hour"]];
const MINUTES = { "5m": 5, "15m": 15, "1h": 60 };
const ID = /^[0-9a-f]{16,32}$/i;

export async function open({ root, query, signal, go }) {
  const page = new Page(query, signal, go);
  root.append(page.node);
  await page.load();
}

class Page {
  constructor(query, signal, go) {
    this.query = query;
    this.signal = signal;
    this.go = go;
    this.service = el("select", { name: "service" });
    this.operation = el("select", { name: "operation" });
    this.found = el("span", { class: "quiet", role: "status" }, "Searching …");
    this.plot = el("div", {});
    this.longest = 1;
    this.list = table(this.columns(), { label: "Traces", rowClass: (row) => (row.errors ? "failed" : null) });
    this.node = el("div", {},
      el("div", { class: "head" }, el("h1", {}, "Traces"), this.found),
      this.form(), this.plot, el("div", { class: "card" }, this.list.node));
  }

  form() {
    const text = (name, label, placeholder, more = {}) => el("label", { class: more.wide ? "wide-field" : null }, label,
      el("input", { name, placeholder, value: this.query.get(name) ?? "", autocomplete: "off", spellcheck: "false" }));
    const form = el("form", { class: "card search", on: { submit: (event) => {
      event.preventDefault();
      this.search(new FormData(form));
    } } },
      el("label", {}, "Service", this.service), el("label", {}, "Operation", this.operation),
      text("minDuration", "At least", "such as 100ms"), text("maxDuration", "At most", "such as 1.5s"),
      el("label", {}, "When", el("select", { name: "within" }, options(WITHIN, this.query.get("within")))),
      text("tags", "Attributes, or a trace id", "rpc.response.status_code=UNAVAILABLE", { wide: true }),
      el("label", { class: "check" }, el("input", { type: "checkbox", name: "error", value: "true", checked: this.query.get("error") === "true" }), "Failed only"),
      el("span", { class: "doing" }, el("button", { class: "main" }, "Search")));
    this.service.addEventListener("change", () => this.operations(this.service.value, ""));
    return form;
  }

  search(data) {
    const text = String(data.get("tags") ?? "").trim();
    if (ID.test(text)) {
      this.go(`/console/traces/${text}`);
      return;
    }
    const query = new URLSearchParams([...data].map(([key, value]) => [key, String(value).trim()]).filter(([, value]) => value));
    this.go(`/console/traces${query.size ? `?${query}` : ""}`);
  }

  async load() {
    const [names] = await Promise.all([get("/api/services", this.signal), this.run(), this.operations(this.query.get("service"), this.query.get("operation"))]);
    this.service.replaceChildren(...options([["", "All services"], ...names.data.map((name) => [name, name])], this.query.get("service")));
  }

  async operations(service, chosen) {
    const names = service ? (await get(`/api/services/${encodeURIComponent(service)}/operations`, this.signal)).data : [];
    this.operation.replaceChildren(...options([["", "All operations"], ...names.map((name) => [name, method(name)])], chosen));
  }

  async run() {
    const { traces, limit } = await get(`/console/data/traces?${ask(this.query)}`, this.signal);
    this.now = Date.now();
    this.longest = Math.max(0.001, ...traces.map((trace) => trace.duration));
    this.list.node.hidden = traces.length === 0;
    this.list.update(traces);
    this.found.textContent = traces.length === limit ? `the newest ${limit}, there may be more` : plural(traces.length, "trace");
    this.plot.replaceChildren(traces.length > 1 ? el("div", { class: "card scatter", style: { padding: "12px 16px", "margin-bottom": "16px" } }, scatter(traces, this.go)) : "");
    if (!traces.length) this.plot.replaceChildren(empty(this.query.size ? "No trace matches." : "No traces yet: send some traffic."));
  }

  columns() {
    return [
      { title: "Trace", sort: (row) => row.operation, cell: (row) => el("div", {},
        link(`/console/traces/${row.trace_id}`, el("span", { class: "trace-name" }, method(row.operation))),
        el("div", { class: "small quiet" }, row.service, row.incomplete ? " · its beginning is not here" : "")) },
      { title: "Services", hide: true, cell: (row) => el("div", { class: "chips" }, row.services.slice(0, 6).map((one) => [el("span", { class: "chip" }, `${one.name} ${one.spans}`), " "]).flat(),
        row.services.length > 6 ? el("span", { class: "quiet" }, `and ${row.services.length - 6} more`) : null) },
      { title: "Spans", number: true, hide: true, sort: (row) => row.spans, cell: (row) => String(row.spans) },
      { title: "Failed", number: true, sort: (row) => row.errors, cell: (row) => (row.errors ? el("span", { class: "bad" }, String(row.errors)) : "") },
      { title: "Duration", number: true, sort: (row) => row.duration, cell: (row) => el("div", {}, duration(row.duration),
        el("span", { class: `meter ${row.errors ? "bad" : ""}`, style: { width: `${(100 * row.duration) / this.longest}%`, "margin-left": "auto" } })) },
      { title: "Began", number: true, sort: (row) => row.at, cell: (row) => el("div", {}, clock(row.at), el("div", { class: "small quiet" }, ago(row.at, this.now))) },
    ];
  }
}

const options = (pairs, chosen) => {
  const known = pairs.some(([value]) => value === (chosen ?? ""));
  const all = known ? pairs : [...pairs, [chosen, chosen]];
  return all.map(([value, text]) => el("option", { value, selected: value === (chosen ?? "") }, text));
};

// The console's own question out of the page's address: attributes as key=value, apart by blanks; times in µs.
export function ask(query, now = Date.now()) {
  const asked = new URLSearchParams();
  for (const name of FIELDS.slice(0, 4)) if (query.get(name)) asked.set(name, query.get(name));
  for (const pair of query.get("tags")?.match(/(?:[^\s"]|"[^"]*")+/g) ?? []) {
    const [key, ...value] = pair.replaceAll('"', "").split("=");
    asked.append("tag", `${key}:${value.join("=")}`);
  }
  if (query.get("error") === "true") asked.append("tag", "error:true");
  if (query.get("within") in MINUTES) asked.set("start", String((now - MINUTES[query.get("within")] * 60_000) * 1000));
  asked.set("limit", query.get("limit") ?? "100");
  return asked;
}

const WIDTH = 1000;
const HEIGHT = 112;

// Each trace as a dot: when, and how long. A click opens it.
function scatter(traces, go) {
  const [first, last] = [Math.min(...traces.map((one) => one.at)), Math.max(...traces.map((one) => one.at))];
  const top = ceiling(Math.max(...traces.map((one) => one.duration)));
  const x = (at) => 56 + ((WIDTH - 72) * (at - first)) / Math.max(1, last - first);
  const y = (ms) => 8 + (HEIGHT - 32) * (1 - ms / top);
  const rules = [0, 0.5, 1].map((share) => svg("g", { class: "rule" },
    svg("line", { x1: 56, x2: WIDTH - 8, y1: y(top * share), y2: y(top * share) }),
    svg("text", { x: 48, y: y(top * share) + 4, "text-anchor": "end" }, share ? duration(top * share) : "0")));
  const dots = [...traces].sort((a, b) => (a.errors > 0) - (b.errors > 0)).map((one) => svg("circle", {
    class: `dot ${one.errors ? "bad" : ""}`, cx: x(one.at).toFixed(1), cy: y(one.duration).toFixed(1), r: 5,
    on: { click: () => go(`/console/traces/${one.trace_id}`) },
  }, svg("title", {}, `${one.service} ${method(one.operation)}, ${duration(one.duration)}`)));
  return el("figure", { class: "chart" }, el("figcaption", {}, el("span", { class: "title" }, "Duration by time")),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Duration of the traces below by time" },
      rules, svg("text", { class: "stamp", x: 56, y: HEIGHT - 4 }, clock(first)), svg("text", { class: "stamp", x: WIDTH - 16, y: HEIGHT - 4, "text-anchor": "end" }, clock(last)), dots));
}
