"use strict";
// Everything that comes from a span goes into the page by textContent: it stays text.

const byId = (id) => document.getElementById(id);
const LIMIT = 50;

async function get(path) {
  const response = await fetch(path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.errors?.[0]?.msg ?? response.statusText);
  return body.data;
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(text) {
  byId("message").textContent = text;
}

function duration(microseconds) {
  if (microseconds < 1000) return `${microseconds} µs`;
  if (microseconds < 1e6) return `${(microseconds / 1000).toFixed(1)} ms`;
  return `${(microseconds / 1e6).toFixed(2)} s`;
}

function traceLink(id) {
  const link = element("a", id.slice(0, 16), "id");
  link.href = `/api/traces/${encodeURIComponent(id)}`;
  return link;
}

function row(trace) {
  const first = trace.spans[0];
  const end = trace.spans.reduce((latest, span) => Math.max(latest, span.startTime + span.duration), 0);
  const failed = trace.spans.some((span) => span.tags.some((tag) => tag.key === "error" && tag.value === true));
  const services = new Set(Object.values(trace.processes).map((process) => process.serviceName));
  const made = document.createElement("tr");
  const link = document.createElement("td");
  link.append(traceLink(trace.traceID));
  made.append(
    element("td", new Date(first.startTime / 1000).toLocaleTimeString()),
    element("td", failed ? `${first.operationName} (error)` : first.operationName, failed ? "error" : ""),
    element("td", [...services].join(", ")),
    element("td", String(trace.spans.length), "number"),
    element("td", duration(end - first.startTime), "number"),
    link,
  );
  return made;
}

async function show(service) {
  for (const button of byId("services").children) {
    button.setAttribute("aria-pressed", String(button.textContent === service));
  }
  const traces = await get(`/api/traces?service=${encodeURIComponent(service)}&limit=${LIMIT}`);
  byId("traces").tBodies[0].replaceChildren(...traces.map(row));
  byId("traces").hidden = traces.length === 0;
  say(`The newest ${traces.length} traces of ${service}.`);
}

function guarded(work) {
  work.catch((error) => say(`That failed: ${error.message}`));
}

async function showUsage() {
  const response = await fetch("/console/store.json");
  const { now, limits, since_start: total } = await response.json();
  const count = (number) => number.toLocaleString();
  byId("usage").textContent =
    `${count(now.spans)} of at most ${count(limits.max_spans)} spans kept, in ${count(now.traces)} traces; ` +
    `${count(total.dropped_spans)} older ones dropped, ${count(total.refused)} refused.`;
}

async function start() {
  guarded(showUsage());
  const services = await get("/api/services");
  byId("services").replaceChildren(
    ...services.map((service) => {
      const button = element("button", service);
      button.type = "button";
      button.addEventListener("click", () => guarded(show(service)));
      return button;
    }),
  );
  if (services.length === 0) say("No spans yet: send some traffic, then reload.");
  else await show(services[0]);
}

byId("by-id").addEventListener("submit", (event) => {
  event.preventDefault();
  location.href = `/api/traces/${encodeURIComponent(byId("trace-id").value)}`;
});
guarded(start());
