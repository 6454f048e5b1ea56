// What `mesh explain SERVICE` says, as tables: each value with where it comes from.
import { breakable, el, empty, facts } from "./dom.js";
import { duration, method, plural } from "./format.js";
import { seconds, section } from "./parts.js";
import { table } from "./table.js";

// The sections of a page; `explain` is the JSON of the command, or null when no sidecar says anything.
export function policy(name, explain) {
  if (!explain) return [section("Policy in force", `mesh explain ${name}`, empty("No sidecar answers, or it knows no such service."))];
  const others = { name: "", deadline: explain.deadline, retry: explain.retry };
  return [
    section("Policy in force", `mesh explain ${name}`, of(METHODS, "Deadlines and retries", [...explain.methods, others])),
    section("Routes", "", of(ROUTES, "Routes", explain.routes)),
    ...explain.balancing.map((one) => section(`Balancing of ${one.target}`, "", el("div", { class: "padded" }, facts(balancing(one))))),
    section("What clients make of it", "", of(CLIENTS, "Clients", explain.dialects), notes(explain)),
  ];
}

const of = (columns, label, rows) => {
  const list = table(columns, { label });
  list.update(rows);
  return list.node;
};

const from = (source) => el("span", { class: source === "default" ? "quiet small" : "small" }, source);

const limit = (deadline) => (deadline?.timeout ? duration(seconds(deadline.timeout)) : "none");

const retries = (retry) => (retry.attempts > 1
  ? `${retry.attempts} attempts on ${retry.codes.join(", ")}, ${duration(seconds(retry.base_delay))} to ${duration(seconds(retry.max_delay))} apart` : "none");

const goes = (shares) => shares.map((one) => `${shares.length > 1 ? `${one.percent} % ` : ""}${one.target} (${plural(one.instances, "instance")})`).join(", ");

const METHODS = [
  { title: "Method", cell: (row) => (row.name ? el("span", {}, breakable(method(row.name))) : el("span", { class: "quiet" }, "any other")) },
  { title: "Deadline", number: true, cell: (row) => limit(row.deadline) },
  { title: "From", hide: true, cell: (row) => from(row.deadline.source) },
  { title: "Retries", cell: (row) => retries(row.retry) },
  { title: "From", hide: true, cell: (row) => from(row.retry.source) },
];

const ROUTES = [
  { title: "Calls", cell: (row) => row.match },
  { title: "Go to", cell: (row) => goes(row.shares) },
  { title: "From", hide: true, cell: (row) => from(row.source) },
];

const CLIENTS = [
  { title: "Client", cell: (row) => row.name },
  { title: "Deadline", number: true, cell: (row) => limit(row) },
  { title: "Attempts", number: true, cell: (row) => String(row.attempts) },
  { title: "Balancing", cell: (row) => row.balancing.join(", ") },
];

const sourced = (text, source) => el("span", {}, text, " ", from(source));

const balancing = (one) => [
  ["Kind", sourced([one.kind, one.hashed_headers.length && `by ${one.hashed_headers.join(", ")}`].filter(Boolean).join(" "), one.source)],
  ["Failover", one.failover.length ? sourced(one.failover.join(", "), one.failover_source) : ""],
  ["Connect timeout", sourced(duration(seconds(one.connect_timeout)), one.connect_timeout_source)],
  ["Outlier detection", sourced(outliers(one.outlier_detection), one.outlier_detection.source)],
  ["Limits", sourced(limits(one.limits), one.limits.source)],
];

function outliers(found) {
  const tests = [
    found.failure_percentage && `${found.failure_percentage} % failed`,
    found.success_rate_stdev_factor && `${found.success_rate_stdev_factor / 1000} deviations below the mean`,
    found.consecutive_failures && `${found.consecutive_failures} in a row failed (Envoy)`,
  ].filter(Boolean);
  if (!tests.length) return "off";
  return `out for ${duration(seconds(found.base_ejection))} when in ${duration(seconds(found.interval))} ${tests.join(" or ")}`;
}

const limits = (found) => [
  found.max_requests && `${found.max_requests} calls at once`,
  found.max_connections && `${found.max_connections} connections (Envoy)`,
  found.max_pending_requests && `${found.max_pending_requests} calls that wait (Envoy)`,
].filter(Boolean).join(", ") || "none";

// Each note once, with the clients that it is about.
function notes(explain) {
  const told = new Map();
  for (const client of explain.dialects) for (const note of client.notes) told.set(note, [...(told.get(note) ?? []), client.name]);
  const lines = [...[...told].map(([note, names]) => `${names.join(", ")}: ${note}`), ...explain.notes];
  return lines.length > 0 && el("ul", { class: "notes small quiet" }, lines.map((line) => el("li", {}, line)));
}
