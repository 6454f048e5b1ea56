// Calls that held the event loop of their process up, each with the code that did: what waits there are all other calls.
import { el, link } from "./dom.js";
import { ago, duration, method } from "./format.js";
import { table } from "./table.js";

// A section for the page of a service; nothing where there was none.
export function stalls(rows) {
  if (!rows.length) return [];
  const list = table(columns(Date.now()), { label: "Held up" });
  list.update(rows);
  return [
    el("h2", {}, "Held up"),
    el("p", { class: "quiet small" }, "Code that kept the event loop for itself, and all other calls of its process waiting. `mesh stack` shows one that still does."),
    el("div", { class: "card" }, list.node),
  ];
}

const columns = (now) => [
  { title: "Call", cell: (row) => link(`/console/traces/${row.trace_id}?span=${row.span_id}`, method(row.method)) },
  { title: "By", cell: (row) => el("span", { class: "mono" }, short(row.by) || "–") },
  { title: "Instance", hide: true, cell: (row) => row.instance || "–", sort: (row) => row.instance },
  { title: "Call took", number: true, cell: (row) => duration(row.duration), sort: (row) => row.duration },
  { title: "When", number: true, cell: (row) => ago(row.at, now), sort: (row) => row.at },
];

// The function, and the last two parts of the file's path.
const short = (by) => by.replace(/ \((?:.*\/)?([^/]+\/[^/]+)\)$/, " ($1)");
