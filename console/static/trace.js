// One trace: the waterfall with its critical path, attempts and deadlines, and what the selected span says.
import { get } from "./api.js";
import { el } from "./dom.js";
import { duration, method, moment, plural } from "./format.js";
import { criticalPath, read, unfolded } from "./tree.js";
import { overview, spanDetail } from "./span.js";
import { Waterfall } from "./waterfall.js";

export const title = ({ id }) => `Trace ${id.slice(0, 8)}`;

export async function open({ root, parameters, query, signal, put }) {
  const path = `/api/traces/${encodeURIComponent(parameters.id)}`;
  const answer = await get(path, signal);
  const trace = read(answer.data[0]);
  const page = new Page(trace, path, query, put);
  root.append(...page.nodes);
  page.start(signal);
}

class Page {
  constructor(trace, path, query, put) {
    this.trace = trace;
    this.put = put;
    this.path = criticalPath(trace);
    this.aside = el("aside", { class: "card detail", "aria-label": "Details" });
    this.fall = new Waterfall(trace, this.path, { select: (span) => this.select(span), enter: () => this.aside.querySelector("a, button")?.focus() });
    this.found = el("span", { class: "quiet small" });
    this.wanted = query.get("span");
    this.nodes = [this.head(path), el("div", { class: "trace" }, el("div", { class: "card waterfall" }, this.notice(), this.fall.node), this.aside)];
  }

  start(signal) {
    this.fall.start(signal);
    const span = this.trace.known.get(this.wanted);
    if (span) this.fall.select(span);
    else this.show(null);
  }

  head(path) {
    const first = this.trace.roots[0].missing ? this.trace.spans[1] : this.trace.roots[0];
    const { errors } = this.trace;
    return el("div", {},
      el("div", { class: "head" },
        el("h1", {}, `${first.service} · ${method(first.operation)}`),
        el("span", { class: "quiet" }, moment(this.trace.start)),
        el("span", { class: "rest" }, this.finder(), this.found,
          el("button", { type: "button", on: { click: (event) => copy(event.currentTarget) } }, "Copy link"),
          el("a", { class: "button", href: path, download: `trace-${this.trace.id}.json` }, "Download JSON"))),
      el("p", {},
        duration(this.trace.duration), el("span", { class: "quiet" }, " · "), plural(this.trace.spans.length - this.trace.missing, "span"),
        el("span", { class: "quiet" }, " · "), plural(this.trace.services, "service"),
        errors ? el("span", { class: "bad" }, ` · ${plural(errors, "span")} failed`) : null,
        el("span", { class: "quiet mono" }, ` · ${this.trace.id}`)));
  }

  notice() {
    const { missing } = this.trace;
    return missing ? el("div", { class: "notice", role: "note" },
      `${plural(missing, "parent span")} ${missing === 1 ? "is" : "are"} not here: not received yet, not sampled, dropped, or of a program that sends none.`) : null;
  }

  finder() {
    const input = el("input", { type: "search", placeholder: "Find in this trace", "aria-label": "Find in this trace", on: {
      input: () => this.find(input.value),
      keydown: (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        this.fall.next();
      },
    } });
    return el("span", {}, input);
  }

  find(text) {
    const wanted = text.trim().toLowerCase();
    const matches = wanted ? this.trace.spans.filter((span) => says(span, wanted)) : null;
    this.fall.mark(matches && new Set(matches));
    this.found.textContent = matches ? plural(matches.length, "match", "matches") : "";
  }

  select(span) {
    this.put(new URLSearchParams(span ? { span: span.id } : {}));
    this.show(span);
  }

  show(span) {
    this.aside.replaceChildren(...(span
      ? spanDetail(span, this.trace, this.path, {
        close: () => this.fall.select(null), pick: (one) => this.fall.select(one), zoom: (one) => this.fall.zoom(one),
      })
      : overview(this.trace, this.path, (one) => this.fall.select(one))));
    this.aside.scrollTop = 0;
  }
}

const says = (span, wanted) => [span.service, span.operation, span.status, span.instance, span.id, span.saying, span.message]
  .some((text) => text.toLowerCase().includes(wanted)) || span.tags.some((tag) => `${tag.key}=${tag.value}`.toLowerCase().includes(wanted));

async function copy(button) {
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copy the address bar";
  }
}
