// One service: its methods with their figures, and the calls that it answered with errors.
import { get } from "./api.js";
import { el, empty, link } from "./dom.js";
import { ago, duration, method, percent, rate } from "./format.js";
import { stalls } from "./stalls.js";
import { table } from "./table.js";

export const title = ({ name }) => name;

export async function open({ root, parameters, signal }) {
  const found = await get(`/console/data/services/${encodeURIComponent(parameters.name)}`, signal);
  const traces = link(`/console/traces?service=${encodeURIComponent(found.name)}`, "Traces");
  const methods = table(METHODS, { label: "Methods" });
  const errors = table(ERRORS(Date.now()), { label: "Recent errors" });
  methods.update(found.methods);
  errors.update(found.recent_errors);
  root.append(
    el("div", { class: "head" }, el("h1", {}, found.name), el("span", { class: "quiet" }, `the last ${found.minutes} minutes`), el("span", { class: "rest" }, traces)),
    el("div", { class: "card" }, found.methods.length ? methods.node : empty("Nobody has called it meanwhile.")),
    el("h2", {}, "Recent errors"),
    el("div", { class: "card" }, found.recent_errors.length ? errors.node : empty("None.")),
    ...stalls(found.stalls));
}

const METHODS = [
  { title: "Method", cell: (row) => method(row.name), sort: (row) => row.name },
  { title: "Calls", number: true, cell: (row) => rate(row.rate), sort: (row) => row.rate },
  { title: "Errors", number: true, cell: (row) => percent(row.error_rate), sort: (row) => row.error_rate },
  { title: "p50", number: true, cell: (row) => duration(row.p50), sort: (row) => row.p50 },
  { title: "p90", number: true, hide: true, cell: (row) => duration(row.p90), sort: (row) => row.p90 },
  { title: "p99", number: true, cell: (row) => duration(row.p99), sort: (row) => row.p99 },
];

const ERRORS = (now) => [
  { title: "Call", cell: (row) => link(`/console/traces/${row.trace_id}?span=${row.span_id}`, method(row.method)) },
  { title: "Status", cell: (row) => el("span", { class: "bad" }, row.status || "error") },
  { title: "Message", hide: true, cell: (row) => row.message },
  { title: "Took", number: true, cell: (row) => duration(row.duration), sort: (row) => row.duration },
  { title: "When", number: true, cell: (row) => ago(row.at, now), sort: (row) => row.at },
];
