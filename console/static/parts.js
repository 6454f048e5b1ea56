// What several pages show alike.
import { el } from "./dom.js";
import { plural } from "./format.js";
import { table } from "./table.js";

// Figures that matter most, large: [label, value, class, note], value and note as text or nodes.
export const tiles = (figures) => el("dl", { class: "card tiles" }, figures.map(([label, value, kind, note]) =>
  el("div", {}, el("dt", {}, label), el("dd", { class: kind || null }, value), note ? el("dd", { class: "note" }, note) : null)));

// A heading with what belongs to it in one card; `aside` is a word beside the heading.
export const section = (name, aside, ...children) => el("section", {},
  el("h2", {}, name, aside ? el("span", { class: "quiet small" }, " ", aside) : null), el("div", { class: "card" }, ...children));

const WORDS = { passing: "ok", warning: "warn", critical: "bad" };

// The health of something, by the registry's words.
export const health = (word) => el("span", { class: `state ${WORDS[word] ?? "quiet"}` }, word || "unknown");

// Instances as the registry and the launcher know them.
export function instances(rows) {
  const list = table([
    { title: "Instance", cell: (row) => el("span", { class: "mono" }, row.id), sort: (row) => row.id },
    { title: "Health", cell: (row) => el("div", {}, health(row.health), row.note ? el("div", { class: "small quiet" }, row.note) : null), sort: (row) => row.health },
    { title: "Address", hide: true, cell: (row) => el("span", { class: "mono" }, row.address) },
    { title: "Zone", cell: (row) => row.zone || "–", sort: (row) => row.zone },
    { title: "Version", cell: (row) => row.version || "–", sort: (row) => row.version },
    { title: "Restarts", number: true, cell: (row) => (row.restarts === null ? "–" : String(row.restarts)), sort: (row) => row.restarts },
  ], { label: "Instances" });
  list.update(rows);
  return list.node;
}

// How far something is, of 0 to 1; null for nobody knows.
export const progress = (share, kind = "") => el("span", {
  class: `progress ${kind} ${share === null ? "unknown" : ""}`, role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100",
  "aria-valuenow": share === null ? null : Math.round(share * 100) }, el("span", { style: { width: share === null ? null : `${(100 * share).toFixed(1)}%` } }));

export const seconds = (text) => (text ? Number.parseFloat(text) * 1000 : null);

export const several = (number, one) => (number ? plural(number, one) : `no ${one}`);
