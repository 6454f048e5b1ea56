// The rows of a trace. Only those in view are in the document, so that 10,000 spans scroll as ten do.
import { el } from "./dom.js";
import { duration, method } from "./format.js";
import { unfolded } from "./tree.js";

const HIGH = 28;
const HIGH_ON_PHONES = 44;
const BEYOND = 8;
const PAGE = 10;
const PHONE = 600;
const DEEPEST = 24;

// What was asked of a store or a server without a name for it, else the operation.
function told({ operation, saying }, name) {
  if (saying.includes("://")) return name === operation ? `${name} ${saying}` : name;
  return saying.startsWith(name) ? saying : name;
}

export class Waterfall {
  // `path` is the critical path; `select(span or null)` is told of a selection, `enter()` of the Enter key.
  constructor(trace, path, { select, enter }) {
    this.trace = trace;
    this.told = { select, enter };
    this.folded = new Set();
    this.selected = null;
    this.view = { from: 0, to: trace.duration || 1 };
    this.matches = null;
    this.pieces = new Map();
    for (const piece of path) this.pieces.set(piece.span, [...(this.pieces.get(piece.span) ?? []), piece]);
    this.all = el("div", { class: "all", role: "presentation" });
    this.rows = el("div", { class: "rows", role: "tree", tabindex: "0", "aria-label": "Spans", on: {
      scroll: () => this.draw(), keydown: (event) => this.key(event), click: (event) => this.click(event),
    } }, this.all);
    this.ticks = el("div", { class: "ticks" });
    const axis = el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, "Service and operation"), this.ticks);
    this.node = el("div", { class: "fall" }, axis, this.rows);
  }

  // To be called when the node is in the document.
  start(signal) {
    addEventListener("resize", () => this.draw(), { signal });
    this.scale();
    this.fold();
  }

  // Select a span, unfold what hides it and bring it into view.
  select(span) {
    this.selected = span;
    const hidden = span && !this.seen.includes(span);
    for (let one = hidden ? span : null; one; one = this.trace.known.get(one.parent)) if (one !== span) this.folded.delete(one.id);
    if (hidden) this.seen = unfolded(this.trace.spans, this.folded);
    if (span) this.reveal();
    this.draw();
    this.told.select(span);
  }

  // Show the time of one span only, or of the whole trace.
  zoom(span) {
    this.view = span && span.end > span.start ? { from: span.start, to: span.end } : { from: 0, to: this.trace.duration || 1 };
    this.scale();
    this.draw();
  }

  // Dim whatever is not among these; null for nothing.
  mark(matches) {
    this.matches = matches;
    this.draw();
  }

  // The next match below the selection, or the first one.
  next() {
    const at = this.seen.indexOf(this.selected);
    const isMatch = (span) => this.matches?.has(span);
    const span = this.seen.slice(at + 1).find(isMatch) ?? this.seen.find(isMatch);
    if (span) this.select(span);
  }

  fold() {
    this.seen = unfolded(this.trace.spans, this.folded);
    this.draw();
  }

  scale() {
    const { from, to } = this.view;
    this.ticks.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((share) =>
      el("span", { style: { left: `${share * 100}%` } }, from || share ? duration(from + (to - from) * share) : "0")));
  }

  draw() {
    const high = innerWidth <= PHONE ? HIGH_ON_PHONES : HIGH;
    this.high = high;
    this.all.style.setProperty("height", `${this.seen.length * high}px`);
    const first = Math.max(0, Math.floor(this.rows.scrollTop / high) - BEYOND);
    const last = Math.min(this.seen.length, Math.ceil((this.rows.scrollTop + this.rows.clientHeight) / high) + BEYOND);
    const drawn = [];
    for (let at = first; at < last; at += 1) drawn.push(this.row(this.seen[at], at));
    this.all.replaceChildren(...drawn);
    if (this.selected) this.rows.setAttribute("aria-activedescendant", `span-${this.selected.id}`);
    else this.rows.removeAttribute("aria-activedescendant");
  }

  row(span, at) {
    const kind = span.kind === "server" || span.kind === "consumer" ? "server" : "";
    const dim = this.matches && !this.matches.has(span) ? "dim" : "";
    const row = el("div", {
      class: `row ${kind} ${span.error ? "error" : ""} ${span.missing ? "missing" : ""} ${dim}`, role: "treeitem", id: `span-${span.id}`,
      "aria-level": span.depth + 1, "aria-selected": String(span === this.selected), "aria-setsize": this.seen.length, "aria-posinset": at + 1,
      "aria-expanded": span.children.length ? String(!this.folded.has(span.id)) : null,
      style: { top: `${at * this.high}px`, "--depth": Math.min(span.depth, DEEPEST) },
    }, this.what(span), span.missing ? el("div", { class: "lane" }) : this.lane(span),
      el("span", { class: "took" }, span.missing ? "" : duration(span.end - span.start)));
    row.dataset.at = at;
    return row;
  }

  what(span) {
    const fold = el("button", { type: "button", class: "fold", tabindex: "-1", "aria-hidden": "true" },
      span.children.length ? (this.folded.has(span.id) ? "▸" : "▾") : "");
    if (span.missing) return el("div", { class: "what" }, fold, `parent ${span.id.slice(0, 8)} is not here`);
    const name = method(span.operation);
    const failed = span.status && !["OK", "200"].includes(span.status) ? span.status : span.error ? "error" : "";
    const status = failed ? el("span", { class: `chip ${span.error ? "bad" : ""}` }, failed) : null;
    const service = el("span", { class: "service", title: span.service }, span.service);
    const words = (text, kind) => el("span", { class: kind, title: text }, text);
    if (span.attempts < 2) return el("div", { class: "what" }, fold, service, words(told(span, name), "operation"), status);
    // Which instance it went to is what one looks for: the status is seen where there is room for it, else by colour alone.
    const which = el("span", { class: `chip ${span.error ? "bad" : "pick"}`, title: failed || null },
      el("span", { class: "wide" }, "attempt "), `${span.attempt}/${span.attempts}`);
    const place = words(span.upstream || span.instance || name, "place");
    return el("div", { class: "what attempt" }, el("span", { class: "who" }, fold, service, which, place), status);
  }

  lane(span) {
    const { from, to } = this.view;
    const left = (ms) => `${(100 * (ms - from)) / (to - from)}%`;
    const percent = (ms) => `${(100 * ms) / (to - from)}%`;
    const length = span.end - span.start;
    const due = span.deadline === null ? Infinity : span.start + span.deadline;
    const late = due <= to + (to - from) / 1000;
    return el("div", { class: "lane" },
      late && due > span.end ? el("span", { class: "due", style: { left: left(span.end), width: percent(due - span.end) } }) : null,
      el("span", { class: "span", style: { left: left(span.start), width: percent(length) } }),
      (this.pieces.get(span) ?? []).map((piece) => el("span", { class: "critical", style: { left: left(piece.from), width: percent(piece.to - piece.from) } })),
      span.logs.slice(0, 50).map((log) => el("span", { class: "mark", style: { left: left(log.at) } })),
      late ? el("span", { class: "end", title: `deadline after ${duration(span.deadline)}`, style: { left: left(due) } }) : null);
  }

  click(event) {
    const row = event.target.closest(".row");
    if (!row) return;
    const span = this.seen[Number(row.dataset.at)];
    if (event.target.closest(".fold") && span.children.length) this.toggle(span);
    else this.select(span === this.selected || span.missing ? null : span);
  }

  toggle(span) {
    if (!this.folded.delete(span.id)) this.folded.add(span.id);
    this.fold();
  }

  key(event) {
    const at = this.seen.indexOf(this.selected);
    const span = this.selected;
    const steps = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, Home: 0, End: this.seen.length - 1, PageDown: at + PAGE, PageUp: at - PAGE };
    if (event.key in steps) this.select(this.seen[Math.max(0, Math.min(this.seen.length - 1, steps[event.key]))]);
    else if (event.key === "ArrowRight" && span?.children.length) {
      if (this.folded.has(span.id)) this.toggle(span);
      else this.select(span.children[0]);
    } else if (event.key === "ArrowLeft" && span) {
      if (span.children.length && !this.folded.has(span.id)) this.toggle(span);
      else if (this.trace.known.has(span.parent)) this.select(this.trace.known.get(span.parent));
    } else if (event.key === "Enter" && span) this.told.enter();
    else if (event.key === "Escape" && span) this.select(null);
    else return;
    event.preventDefault();
  }

  reveal() {
    const top = this.seen.indexOf(this.selected) * this.high;
    const { scrollTop, clientHeight } = this.rows;
    if (top < scrollTop) this.rows.scrollTop = top - this.high;
    else if (top + this.high > scrollTop + clientHeight) this.rows.scrollTop = top - clientHeight + 2 * this.high;
  }
}
