// What happens: the events of all services as they come, runs of sync with their progress, tasks, queues, dead letters.
// All of it is the gateway's own REST API of the same origin.
import { follow, get, repeat } from "./api.js";
import { el, empty, link } from "./dom.js";
import { ago, clock, count, duration, plural } from "./format.js";
import { about, kindOf, rewound, traceOf } from "./event.js";
import { progress, seconds, section } from "./parts.js";
import { table } from "./table.js";

export const title = () => "Events";

const MOST = 200;
const BACK = 20;
const EVERY_MS = 10_000;
const WATCHED = 2;
const KINDS = [["", "All events"], ["order", "Orders"], ["sync", "Runs of sync"], ["user", "Users"]];

export async function open({ root, query, signal, live, put }) {
  const page = new Page(query, put, signal);
  root.append(page.node);
  if (!await isBehindGateway(signal)) {
    root.replaceChildren(await elsewhere(signal));
    return;
  }
  page.start(live);
}

async function isBehindGateway(signal) {
  try {
    const answer = await fetch("/v1/providers", { signal });
    return answer.status !== 404;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return true;
  }
}

// The console at a port of its own has no REST API beside it.
async function elsewhere(signal) {
  const { processes } = await get("/console/data/mesh", signal);
  const edge = processes?.find((process) => process.name === "envoy")?.address;
  return empty("Events come by the gateway's REST API, which is not at this address. ",
    edge ? link(`//${edge}/console/events`, "This page at the gateway") : "Open this page at the gateway.");
}

class Page {
  constructor(query, put, signal) {
    this.put = put;
    this.signal = signal;
    this.kind = query.get("kind") ?? "";
    this.last = "";
    this.gap = "";
    this.waiting = [];
    this.seen = 0;
    this.watched = new Map();
    this.list = el("ol", { class: "events", "aria-label": "Events" });
    this.none = empty("Nothing has happened yet. Start a run of sync, or send an order.");
    this.note = el("span", { class: "quiet small", role: "status" });
    this.runs = el("div", {}, empty("…"));
    this.tasks = table(TASKS, { label: "Tasks" });
    this.consumers = table(CONSUMERS, { label: "Consumers" });
    this.queues = table(QUEUES, { label: "Queues" });
    this.letters = el("div", { hidden: true });
    [this.taskPlace, this.workPlace, this.queuePlace] = Array.from({ length: 3 }, () => el("div", {}, empty("…")));
    this.node = el("div", {}, this.head(), el("div", { class: "two" },
      el("section", { class: "card stream" }, this.none, this.list),
      el("div", { class: "stack" },
        section("Runs of sync", "", this.runs),
        section("Consumers of events", "and what they gave up", this.workPlace), this.letters,
        section("Queues", "", this.queuePlace), section("Tasks", "the newest first", this.taskPlace))));
  }

  head() {
    const kind = el("select", { "aria-label": "Kind of events", on: { change: () => this.filter(kind.value) } },
      KINDS.map(([value, text]) => el("option", { value, selected: value === this.kind }, text)));
    return el("div", { class: "head" }, el("h1", {}, "Events"), this.note, el("span", { class: "rest" }, el("span", {}, kind)));
  }

  start(live) {
    this.again = follow(() => this.path(), (message) => this.take(message), live, this.signal, (reason) => this.refused(reason));
    const quietly = (place) => (state, error) => error && place.replaceChildren(empty(error.message));
    this.look = repeat("/v1/syncs?page_size=6", EVERY_MS, (found) => this.sync(found.syncs ?? []), quietly(this.runs), this.signal);
    repeat("/v1/taskResults?page_size=6", EVERY_MS, (found) => fill(this.taskPlace, this.tasks, found.taskResults, "No task has run yet."), quietly(this.taskPlace), this.signal);
    repeat("/v1/status", EVERY_MS, (found) => this.status(found), quietly(this.workPlace), this.signal);
  }

  path() {
    const query = new URLSearchParams();
    if (this.last) query.set("last_event_id", this.last);
    if (this.kind) query.set("types", this.kind);
    return `/v1/events:watch?${query}`;
  }

  filter(kind) {
    this.kind = kind;
    this.put(new URLSearchParams(kind ? { kind } : {}));
    this.list.replaceChildren();
    this.last = this.gap = "";
    this.seen = 0;
    this.none.hidden = false;
    this.again();
  }

  // The first message says where the stream is: from a little before that it is followed, so that there is something
  // to see. A connection that was lost goes on behind the last event that came.
  take({ event, lastEventId }) {
    if (!this.last && !event) {
      const back = this.gap ? lastEventId : rewound(lastEventId, BACK);
      this.last = back;
      if (back !== lastEventId) this.again();
      return;
    }
    this.last = lastEventId;
    if (!event) return;
    if (!this.waiting.length) setTimeout(() => this.draw(), 100);
    this.waiting.push(event);
    this.seen += 1;
  }

  // The place where the page was is not kept any more: on from where the stream is now.
  refused(reason) {
    if (reason !== "EVENTS_EXPIRED" || !this.last) return;
    this.last = "";
    this.gap = "those in between are no longer kept";
    this.say();
    this.again();
  }

  say() {
    const seen = this.seen > MOST ? `the newest ${MOST} of ${count(this.seen)}` : plural(this.seen, "event");
    this.note.textContent = this.gap ? `${seen}; ${this.gap}` : seen;
  }

  draw() {
    const events = this.waiting.splice(0).slice(-MOST).reverse();
    this.none.hidden = true;
    this.list.prepend(...events.map(row));
    while (this.list.children.length > MOST) this.list.lastChild.remove();
    this.say();
    if (events.some((event) => kindOf(event) === "sync")) this.look();
  }

  sync(found) {
    const expected = new Map();
    for (const run of [...found].reverse()) if (run.state === "STATE_SUCCEEDED") expected.set(run.provider, run.counts?.fetched ?? 0);
    const shown = found.map((run) => ({ run, node: el("div", { class: "run" }) }));
    const show = (one, run) => one.node.replaceChildren(...runLines(run, expected.get(run.provider)));
    shown.forEach((one) => show(one, one.run));
    this.runs.replaceChildren(...(shown.length ? shown.map((one) => one.node) : [empty("None yet.")]));
    this.watch(shown.filter((one) => !one.run.endTime).slice(0, WATCHED), show);
  }

  // The runs that are at work are followed by a stream each, as many as a browser can spare connections for.
  watch(shown, show) {
    for (const end of this.watched.values()) end.abort();
    this.watched.clear();
    for (const one of shown) {
      const end = new AbortController();
      this.signal.addEventListener("abort", () => end.abort(), { signal: end.signal });
      this.watched.set(one.run.id, end);
      follow(`/v1/syncs/${one.run.id}:watch`, ({ sync }) => {
        show(one, sync);
        if (sync.endTime) end.abort();
      }, () => {}, end.signal);
    }
  }

  status({ consumers = [], queues = [], problems = [] }) {
    fill(this.workPlace, this.consumers, consumers, problems.join("; ") || "None.");
    const gaveUp = consumers.filter((one) => one.newestDeadLetters?.length);
    this.letters.hidden = !gaveUp.length;
    this.letters.replaceChildren(...gaveUp.map(letters));
    fill(this.queuePlace, this.queues, queues, "Unknown.");
  }
}

function fill(place, list, rows, nothing) {
  list.update(rows ?? []);
  if (!rows?.length) place.replaceChildren(empty(nothing));
  else if (!place.contains(list.node)) place.replaceChildren(list.node);
}

function row(event) {
  const [verb, text, kind] = about(event);
  const trace = traceOf(event);
  const at = clock(Date.parse(event.time));
  return el("li", {},
    el("span", { class: "at mono quiet" }, trace ? link(`/console/traces/${trace}`, at) : at),
    el("span", { class: "what" }, el("span", { class: "quiet" }, `${kindOf(event)} `), el("span", { class: kind }, verb)),
    el("span", { class: "more" }, text),
    el("span", { class: "mono quiet id" }, event.id));
}

const STATES = { SUCCEEDED: "ok", FAILED: "bad", CANCELLED: "warn", SKIPPED: "warn" };

const state = (word) => {
  const name = (word ?? "").replace("STATE_", "");
  return el("span", { class: `state ${STATES[name] ?? "quiet"}` }, name.toLowerCase());
};

function runLines(run, expected) {
  const { fetched = 0, created = 0, updated = 0, unchanged = 0, failed = 0, deactivated = 0 } = run.counts ?? {};
  const began = Date.parse(run.startTime ?? run.createTime);
  const share = run.endTime ? (run.state === "STATE_SUCCEEDED" ? 1 : fraction(fetched, expected)) : fraction(fetched, expected);
  const parts = [[created, "new"], [updated, "changed"], [unchanged, "unchanged"], [deactivated, "gone"], [failed, "failed"]];
  return [
    el("div", { class: "line" }, el("strong", {}, run.provider), " ", state(run.state),
      el("span", { class: "quiet push number" }, run.endTime ? `${duration(Date.parse(run.endTime) - began)} · ${ago(began, Date.now())}` : `since ${clock(began)}`)),
    progress(share, { STATE_FAILED: "bad", STATE_SUCCEEDED: "ok" }[run.state]),
    el("div", { class: "small quiet" }, [`${plural(fetched, "user")}`, ...parts.filter(([number]) => number).map(([number, word]) => `${count(number)} ${word}`)].join(" · ")),
    run.error ? el("div", { class: "small bad" }, run.error) : null,
  ].filter(Boolean);
}

// As far as the run before it came; nobody says in advance how many users there are.
const fraction = (fetched, expected) => (expected ? Math.min(1, fetched / expected) : null);

const TASKS = [
  { title: "Task", cell: (row) => el("div", {}, row.task, el("div", { class: "small quiet" }, row.error || row.summary || "")) },
  { title: "State", cell: (row) => state(row.state) },
  { title: "Took", number: true, cell: (row) => (row.endTime ? duration(Date.parse(row.endTime) - Date.parse(row.startTime)) : "–") },
  { title: "Began", number: true, cell: (row) => ago(Date.parse(row.startTime), Date.now()) },
];

const HEALTH = { HEALTH_PASSING: "ok", HEALTH_WARNING: "warn", HEALTH_CRITICAL: "bad" };

const named = (row) => el("span", {}, el("span", { class: `state ${HEALTH[row.health] ?? "quiet"}` }), row.name);

const CONSUMERS = [
  { title: "Consumer", cell: named },
  { title: "Waiting", number: true, cell: (row) => row.waiting ?? "?" },
  { title: "In hand", number: true, cell: (row) => row.inHand ?? "0" },
  { title: "Oldest", number: true, cell: (row) => duration(seconds(row.oldestAge)) },
  { title: "Dead letters", number: true, cell: (row) => el("span", { class: Number(row.deadLetters) ? "bad" : null }, row.deadLetters ?? "0") },
];

const LETTERS = [
  { title: "Event", cell: (row) => el("div", {}, row.eventId || row.id, el("div", { class: "small quiet" }, [row.eventType, row.stream].filter(Boolean).join(" · "))) },
  { title: "Reason", cell: (row) => row.reason ?? "" },
  { title: "Tries", number: true, cell: (row) => row.deliveries ?? "?" },
  { title: "Given up", number: true, cell: (row) => ago(Date.parse(row.time), Date.now()) },
];

// What a consumer gave up, the newest first, and how to have it done again.
function letters({ name, deadLetters, newestDeadLetters: found }) {
  const list = table(LETTERS, { label: `Dead letters of ${name}` });
  list.update(found);
  const shown = Number(deadLetters) > found.length ? `the newest ${found.length} of ${count(deadLetters)}` : "";
  const replay = el("div", { class: "run small quiet" }, "Have them done again: ", el("code", {}, `python -m services replay ${name}`));
  return section(`Dead letters of ${name}`, shown, list.node, replay);
}

const QUEUES = [
  { title: "Queue", cell: named },
  { title: "Waiting", number: true, cell: (row) => row.waiting ?? "0" },
  { title: "Oldest", number: true, cell: (row) => duration(seconds(row.oldestAge)) },
];
