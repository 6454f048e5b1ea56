// The mesh itself: who feeds whom with what, what was refused, what is wrong, and what goes wrong on purpose.
import { followTopic, get, repeat } from "./api.js";
import { el, empty } from "./dom.js";
import { bytes, count, duration, percent, plural } from "./format.js";
import { section, tiles } from "./parts.js";
import { table } from "./table.js";

export const title = () => "Mesh";

const EVERY_MS = 10_000;

export async function open({ root, signal, live }) {
  const page = new Page();
  root.append(page.node);
  page.show(await get("/console/data/mesh", signal));
  followTopic("mesh", (state) => page.show(state), live, signal);
  repeat("/console/data/store", EVERY_MS, (state) => page.spans(state), () => {}, signal);
}

class Page {
  constructor() {
    this.figures = el("div", {});
    this.faults = lists(FAULTS, "Faults", "None.");
    this.findings = el("div", {}, empty("…"));
    this.passed = el("span", {});
    this.kept = el("div", { class: "padded" }, "…");
    this.feeds = lists(FEEDS, "Feeds", "None answers.");
    this.clients = lists(CLIENTS, "Clients", "None asks for anything.");
    this.processes = lists(PROCESSES, "Processes", "No launcher answers: they run by other means.");
    this.node = el("div", {},
      el("div", { class: "head" }, el("h1", {}, "Mesh")), this.figures,
      section("Faults in force", "on purpose, and until their time", this.faults.node),
      section("Findings", "mesh check", this.findings),
      section("Feeds", "who tells clients by xDS where the others are", this.feeds.node),
      section("Clients", "what they hold and refused", this.clients.node),
      section("Processes", "", this.processes.node),
      section("Spans", "what the console was sent since its start", this.kept));
  }

  show({ feeds, subscriptions, processes, faults, findings }) {
    const clients = subscriptions && byClient(subscriptions);
    this.figures.replaceChildren(tiles(summary(feeds, clients, processes, faults, findings)));
    this.faults.update(faults);
    this.feeds.update(feeds);
    this.clients.update(clients);
    this.processes.update(processes);
    this.findings.replaceChildren(...(findings ? groups(findings.findings) : [empty("No answer in time.")]));
  }

  spans({ now, since_start: { stored, dropped_spans: dropped, refused } }) {
    this.kept.replaceChildren(`${count(now.spans)} kept of ${count(stored)} stored, ${bytes(now.bytes)} · ${count(dropped)} dropped for newer ones · `,
      el("span", { class: refused ? "bad" : null }, `${count(refused)} refused`));
  }
}

function lists(columns, label, nothing) {
  const list = table(columns, { label });
  const node = el("div", {}, empty("…"));
  return { node, update(rows) {
    list.update(rows ?? []);
    if (!rows?.length) node.replaceChildren(empty(rows ? nothing : "Nobody knows."));
    else if (!node.contains(list.node)) node.replaceChildren(list.node);
  } };
}

const sum = (rows, key) => rows.reduce((total, row) => total + row[key], 0);

function summary(feeds, clients, processes, faults, findings) {
  const ages = (feeds ?? []).map((feed) => feed.snapshot_age_seconds).filter((age) => age !== null);
  const slowest = [...(feeds ?? [])].filter((feed) => feed.propagation.count).sort((a, b) => (b.propagation.p99 ?? Infinity) - (a.propagation.p99 ?? Infinity))[0];
  const nacks = feeds ? sum(feeds, "nacks") : null;
  const ready = (processes ?? []).filter((process) => process.state === "ready").length;
  const wrong = findings?.findings.filter((finding) => !finding.passed).length;
  return [
    ["Findings", findings ? (wrong ? plural(wrong, "problem") : "all well") : "–", wrong ? "bad" : ""],
    ["Processes", processes ? `${ready} of ${processes.length}` : "–", processes && ready < processes.length ? "warn" : "", "ready"],
    ["Clients", clients ? String(clients.length) : "–", "", "follow by xDS"],
    ["Refused", nacks === null ? "–" : String(nacks), nacks ? "bad" : "", "versions, by NACK"],
    ["Propagation", slowest ? within(slowest.propagation.p99) : "–", "", slowest ? `p99 of ${plural(slowest.propagation.count, "change")}` : "no change so far"],
    ...(ages.length ? [["Snapshot age", duration(Math.max(...ages) * 1000), "", "since the registry answered"]] : []),
    ["Faults", faults ? String(faults.length) : "–", faults?.length ? "warn" : "", "in force"],
  ];
}

const within = (seconds) => (seconds === null ? "over 10 s" : `≤ ${duration(seconds * 1000)}`);

// One row for each client, with all that it follows.
function byClient(subscriptions) {
  const found = new Map();
  for (const one of subscriptions) {
    const key = `${one.node} ${one.agent}`;
    const client = found.get(key) ?? { node: one.node, agent: one.agent, types: [], names: new Set(), nacks: 0, last_nack: "" };
    client.types.push(one);
    if (["Listener", "ClusterLoadAssignment"].includes(one.type)) one.names.forEach((name) => client.names.add(name));
    client.nacks += one.nacks;
    client.last_nack ||= one.last_nack;
    found.set(key, client);
  }
  return [...found.values()];
}

// What failed first, with what mends it; what is well behind it, group by group.
function groups(findings) {
  const wrong = findings.filter((finding) => !finding.passed);
  const well = new Map();
  for (const one of findings) if (one.passed) well.set(one.group, [...(well.get(one.group) ?? []), one]);
  return [
    ...wrong.map((one) => el("div", { class: "finding" }, el("span", { class: "state bad" }, one.group), el("span", {}, one.text),
      one.remedy ? el("code", {}, one.remedy) : null)),
    el("details", { class: "finding-list" }, el("summary", {}, `${plural(findings.length - wrong.length, "thing")} looked at and found well`),
      [...well].map(([group, ones]) => el("div", { class: "finding" }, el("span", { class: "state ok" }, group), el("ul", {}, ones.map((one) => el("li", {}, one.text)))))),
  ];
}

const mono = (text) => el("span", { class: "mono" }, text);

const FAULTS = [
  { title: "Calls of", cell: (row) => `${row.service}${row.path ? ` ${row.path.split("/").pop()}` : ", all methods"}` },
  { title: "What happens", cell: (row) => el("span", { class: "warn" }, [row.abort && `fail with ${row.abort}`, row.delay_seconds && `wait ${duration(row.delay_seconds * 1000)}`].filter(Boolean).join(", ") || "as headers ask") },
  { title: "Share", number: true, cell: (row) => percent(row.percent / 100) },
  { title: "Ends in", number: true, cell: (row) => duration(Math.max(0, row.until - Date.now())) },
];

const FEEDS = [
  { title: "From", cell: (row) => row.job },
  { title: "Clients", number: true, cell: (row) => String(row.streams) },
  { title: "Pushed", number: true, hide: true, cell: (row) => String(row.pushes) },
  { title: "Accepted", number: true, hide: true, cell: (row) => String(row.acks) },
  { title: "Refused", number: true, cell: (row) => el("span", { class: row.nacks ? "bad" : null }, String(row.nacks)) },
  { title: "Snapshot age", number: true, hide: true, cell: (row) => (row.snapshot_age_seconds === null ? "–" : duration(row.snapshot_age_seconds * 1000)) },
  { title: "Propagation p50", number: true, cell: (row) => (row.propagation.count ? within(row.propagation.p50) : "–") },
  { title: "p99", number: true, cell: (row) => (row.propagation.count ? within(row.propagation.p99) : "–") },
];

const CLIENTS = [
  { title: "Client", cell: (row) => el("div", {}, mono(row.node), el("div", { class: "small quiet" }, row.agent)), sort: (row) => row.node },
  { title: "Follows", cell: (row) => [...row.names].join(", ") || "all" },
  { title: "Versions that it holds", hide: true, cell: (row) => el("div", { class: "chips" }, row.types.flatMap((one) => [
    el("span", { class: `chip ${one.nacks ? "bad" : ""}`, title: one.names.join(", ") || "all" }, `${one.type} `, mono(one.version.slice(0, 6) || "–")), " "])) },
  { title: "Refused", number: true, cell: (row) => el("div", { class: row.nacks ? "bad" : null }, String(row.nacks)), sort: (row) => row.nacks },
  { title: "Why", hide: true, cell: (row) => el("span", { class: "small" }, row.last_nack || "–") },
];

const STATES = { ready: "ok", draining: "warn", starting: "warn" };

const PROCESSES = [
  { title: "Process", cell: (row) => row.name, sort: (row) => row.name },
  { title: "State", cell: (row) => el("div", {}, el("span", { class: `state ${STATES[row.state] ?? "bad"}` }, row.state), row.note ? el("div", { class: "small quiet" }, row.note) : null), sort: (row) => row.state },
  { title: "Restarts", number: true, cell: (row) => el("span", { class: row.restarts ? "warn" : null }, String(row.restarts)), sort: (row) => row.restarts },
  { title: "Process id", number: true, hide: true, cell: (row) => String(row.pid || "–") },
  { title: "Address", hide: true, cell: (row) => mono(row.address || "–") },
];
