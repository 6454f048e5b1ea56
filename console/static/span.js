// What is beside the waterfall: where the time of a trace went, or all that one span says.
import { el, facts, link } from "./dom.js";
import { duration, method, moment, percent } from "./format.js";
import { budget, selfTime } from "./tree.js";

const MOST = 8;

// The trace as a whole. `pick(span)` selects one.
export function overview(trace, path, pick) {
  const parts = shares(path);
  const last = path.map((piece) => piece.span).filter((span) => span.deadline !== null).sort((a, b) => b.depth - a.depth)[0];
  return [
    el("h2", {}, "Where the time went"),
    el("p", { class: "quiet small" }, "Along the critical path, the dark line through the bars: what the whole was waiting for."),
    el("div", {}, parts.map(([what, ms]) => el("div", { class: "instance" },
      el("div", { class: "share" }, el("span", {}, what), el("span", { class: "number" }, `${duration(ms)} · ${percent(ms / (trace.duration || 1))}`)),
      el("span", { class: "meter", style: { width: `${(100 * ms) / (trace.duration || 1)}%` } })))),
    ...(last ? hops(budget(last, trace.known), pick) : []),
  ];
}

function shares(path) {
  const found = new Map();
  for (const { span, from, to } of path) {
    const what = `${span.service} ${method(span.operation)}`;
    found.set(what, (found.get(what) ?? 0) + to - from);
  }
  return [...found].sort((a, b) => b[1] - a[1]).slice(0, MOST);
}

// One span. `close()` and `pick(span)` change the selection, `zoom(span or null)` what the time axis spans.
export function spanDetail(span, trace, path, { close, pick, zoom }) {
  const critical = path.filter((piece) => piece.span === span).reduce((sum, piece) => sum + piece.to - piece.from, 0);
  return [
    el("div", { class: "panel-head" }, el("h2", {}, method(span.operation)),
      el("button", { type: "button", class: "plain", "aria-label": "Close", on: { click: close } }, "✕")),
    facts([
      ["Service", link(`/console/services/${encodeURIComponent(span.service)}`, span.service)],
      ["Instance", span.instance || span.upstream],
      ["Status", el("span", { class: span.error ? "bad" : null }, [span.status, span.message].filter(Boolean).join(": ") || (span.error ? "error" : "ok"))],
      ["Attempt", span.attempts > 1 ? `${span.attempt} of ${span.attempts}` : ""],
      ["Kind", span.kind],
      ["Began", `${moment(trace.start + span.start)}, after ${duration(span.start)}`],
      ["Took", duration(span.end - span.start)],
      ["Of its own", `${duration(selfTime(span))}, ${duration(critical)} of it critical`],
    ]),
    el("p", { style: { "margin-top": "12px" } },
      el("button", { type: "button", on: { click: () => zoom(span) } }, "Zoom to its time"), " ",
      el("button", { type: "button", on: { click: () => zoom(null) } }, "Whole trace")),
    ...span.warnings.map((warning) => el("p", { class: "warn small" }, warning)),
    ...hops(budget(span, trace.known), pick),
    ...section("Events", span.logs.map((log) => event(log, span))),
    ...section("Links", span.links.map((one) => el("div", { class: "mono" },
      link(`/console/traces/${one.trace}?span=${one.span}`, `${one.trace.slice(0, 16)}… / ${one.span}`)))),
    ...section("Attributes", span.tags.length ? [values(span.tags)] : []),
    ...section("Process", span.process.length ? [values(span.process)] : []),
    ...section("Ids", [facts([["Span", el("span", { class: "mono" }, span.id)], ["Parent", span.parent ? el("span", { class: "mono" }, span.parent) : ""]])]),
  ];
}

const section = (name, parts) => (parts.length ? [el("h3", {}, name), ...parts] : []);

const values = (tags) => {
  const list = facts(tags.map((tag) => [tag.key, el("span", { class: "mono" }, String(tag.value))]));
  list.classList.add("attributes");
  return list;
};

function event(log, span) {
  const name = log.fields.find((field) => field.key === "event");
  const rest = log.fields.filter((field) => field !== name);
  return el("div", { class: "event" },
    el("div", {}, name ? String(name.value) : "event", el("span", { class: "quiet small" }, ` after ${duration(log.at - span.start)}`)),
    rest.length ? values(rest) : null);
}

// The deadline on its way down: each bar is what was left when the call began, filled as far as the call took it.
function hops(found, pick) {
  if (!found.length) return [];
  const whole = Math.max(...found.map((hop) => hop.given));
  const share = (ms) => `${(100 * Math.max(0, Math.min(ms, whole))) / whole}%`;
  return section("Deadline budget", [el("div", { class: "budget" }, found.map(({ span, given, used, left }) => el("div", { class: "hop small" },
    el("div", {}, el("button", { type: "button", class: "plain", style: { padding: 0, color: "var(--pick)" }, on: { click: () => pick(span) } }, `${span.service} ${method(span.operation)}`),
      el("span", { class: "quiet" }, ` ${span.kind}`)),
    el("div", { class: "track", "aria-hidden": "true" },
      el("span", { class: "gone", style: { left: 0, width: share(whole - given) } }),
      el("span", { class: left < 0 ? "over" : "used", style: { left: share(whole - given), width: share(used) } })),
    el("div", { class: "quiet" }, `${duration(given)} left at its start, ${duration(used)} spent, `,
      left < 0 ? el("span", { class: "bad" }, `${duration(-left)} too late`) : `${duration(left)} left at its end`))))]);
}
