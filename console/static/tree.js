// A trace out of Jaeger's JSON: the tree of its spans, attempts, deadlines and the critical path. Pure. Times in ms from
// the trace's beginning. Nothing here calls itself: a trace may be 10,000 spans deep.

const US = 1000;

// {id, start (ms since 1970), duration, spans, roots, missing, services, errors}. A span is
// {id, parent, children, depth, service, instance, operation, kind, start, end, error, status, message, attempt, attempts,
//  deadline (what was left when it began, or null), tags, logs, links, process, warnings, missing}; children by start.
// A parent that is not in the trace has a stand-in with `missing` set, so that what is below it stays together.
export function read(trace) {
  const begin = trace.spans.reduce((least, span) => Math.min(least, span.startTime), Infinity);
  const spans = trace.spans.map((span) => make(span, trace.processes[span.processID], begin));
  const known = new Map(spans.map((span) => [span.id, span]));
  const missing = standIns(spans, known);
  const roots = connect([...missing, ...spans], known);
  const ordered = walk(roots);
  for (const span of ordered) if (!span.missing) countAttempts(span);
  return {
    id: trace.traceID,
    start: begin / US,
    duration: spans.reduce((end, span) => Math.max(end, span.end), 0),
    spans: ordered,
    known,
    roots,
    missing: missing.length,
    services: new Set(spans.map((span) => span.service)).size,
    errors: spans.filter((span) => span.error).length,
  };
}

function make(span, process, begin) {
  const tags = new Map(span.tags.map((tag) => [tag.key, tag.value]));
  const own = new Map((process?.tags ?? []).map((tag) => [tag.key, tag.value]));
  const parent = span.references.find((one) => one.refType === "CHILD_OF" && one.traceID === span.traceID);
  const start = (span.startTime - begin) / US;
  return {
    id: span.spanID,
    parent: parent?.spanID ?? null,
    children: [],
    depth: 0,
    service: process?.serviceName ?? "",
    instance: own.get("service.instance.id") ?? "",
    operation: span.operationName,
    kind: tags.get("span.kind") ?? "internal",
    start,
    end: start + span.duration / US,
    error: String(tags.get("error")) === "true",
    status: statusOf(tags),
    message: tags.get("otel.status_description") ?? tags.get("grpc.message") ?? "",
    attempt: number(tags.get("meshwright.attempt")) ?? after(number(tags.get("retry.count"))),
    attempts: 0,
    saying: (tags.get("db.query.summary") ?? tags.get("db.query.text") ?? tags.get("db.statement") ?? tags.get("url.full") ?? tags.get("http.url") ?? "").slice(0, 300),
    upstream: tags.get("upstream_address") ?? tags.get("upstream_host") ?? "",
    deadline: after(number(tags.get("meshwright.deadline_seconds")) ?? timeout(tags.get("grpc.timeout")), 0, 1000),
    tags: span.tags,
    logs: span.logs.map((log) => ({ at: (log.timestamp - begin) / US, fields: log.fields })),
    links: span.references.filter((one) => one.refType === "FOLLOWS_FROM").map((one) => ({ trace: one.traceID, span: one.spanID })),
    process: process?.tags ?? [],
    warnings: span.warnings ?? [],
    missing: false,
  };
}

const number = (value) => (value === undefined || value === "" || !Number.isFinite(Number(value)) ? null : Number(value));

const after = (value, more = 1, times = 1) => (value === null ? null : value * times + more);

const UNITS = { H: 3600, M: 60, S: 1, m: 1e-3, u: 1e-6, n: 1e-9 };

// Seconds of a `grpc-timeout`, as in 9999m. https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
function timeout(text) {
  const found = /^(\d{1,8})([HMSmun])$/.exec(text ?? "");
  return found ? Number(found[1]) * UNITS[found[2]] : null;
}

const CODES = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
  "DATA_LOSS", "UNAUTHENTICATED",
];

// The name of a gRPC code, or an HTTP status.
function statusOf(tags) {
  const code = tags.get("rpc.response.status_code") ?? tags.get("rpc.grpc.status_code") ?? tags.get("grpc.status_code");
  if (code !== undefined) return CODES[code] ?? String(code);
  const status = String(tags.get("http.response.status_code") ?? tags.get("http.status_code") ?? "");
  return status === "0" ? "no answer" : status;
}

function standIns(spans, known) {
  const made = new Map();
  for (const span of spans) {
    if (!span.parent || known.has(span.parent)) continue;
    const found = made.get(span.parent);
    if (found) {
      found.start = Math.min(found.start, span.start);
      found.end = Math.max(found.end, span.end);
    } else made.set(span.parent, absent(span));
  }
  for (const span of made.values()) known.set(span.id, span);
  return [...made.values()];
}

const absent = (child) => ({
  id: child.parent, parent: null, children: [], depth: 0, service: "", instance: "", operation: "", kind: "", start: child.start,
  end: child.end, error: false, status: "", message: "", attempt: null, attempts: 0, saying: "", upstream: "", deadline: null, tags: [], logs: [],
  links: [], process: [], warnings: [], missing: true,
});

// Give every span its children; answers those without a parent. Spans that are each other's parents lose one tie.
function connect(spans, known) {
  const roots = [];
  for (const span of spans) {
    const parent = known.get(span.parent);
    if (parent && parent !== span && !isAbove(span, parent, known)) parent.children.push(span);
    else roots.push(span);
  }
  const earlier = (a, b) => a.start - b.start || b.end - a.end;
  for (const span of spans) span.children.sort(earlier);
  return roots.sort(earlier);
}

// Whether a span is among those above another one: only then can a tie close a ring. Rings are made by hand, and short
// ways up are the rule, so the way is walked once for each span that has been tied already.
function isAbove(span, other, known) {
  if (!span.children.length) return false;
  const seen = new Set();
  for (let one = other; one && !seen.has(one); one = known.get(one.parent)) {
    if (one === span) return true;
    seen.add(one);
  }
  return false;
}

// Depth first, as the waterfall shows them; sets the depths.
function walk(roots) {
  const ordered = [];
  const stack = [...roots].reverse();
  while (stack.length) {
    const span = stack.pop();
    ordered.push(span);
    for (let n = span.children.length - 1; n >= 0; n -= 1) {
      span.children[n].depth = span.depth + 1;
      stack.push(span.children[n]);
    }
  }
  return ordered;
}

// SERVER spans below one CLIENT span are attempts of that call (gRPC tries again within it). Envoy makes a CLIENT span
// for each attempt: those to the same method below one SERVER span, of which a later one says that it is another try.
function countAttempts(span) {
  const tries = span.kind === "client" ? span.children.filter((child) => child.kind === "server") : proxied(span);
  if (tries.length < 2) {
    if (tries.length === 1 && tries[0].attempt > 1 && !span.attempts) tries[0].attempts = tries[0].attempt;
    return;
  }
  const most = Math.max(tries.length, ...tries.map((one) => one.attempt ?? 0));
  tries.forEach((one, n) => {
    one.attempt = Math.max(one.attempt ?? 0, n + 1);
    one.attempts = most;
  });
}

function proxied(span) {
  const calls = span.kind === "server" ? span.children.filter((child) => child.kind === "client") : [];
  return calls.some((call) => call.attempt > 1) ? calls : [];
}

// What the trace waited for: pieces {span, from, to}, latest first, that do not overlap. From the end of the root that
// ended last back: what ended last was waited for, then what ended last before that began. A child that went on after
// its parent had ended was waited for until then at most.
export function criticalPath(trace) {
  const pieces = [];
  const root = trace.roots.reduce((last, one) => (last && last.end >= one.end ? last : one), null);
  const stack = root ? [frame(root, root.start, root.end)] : [];
  while (stack.length) {
    const top = stack[stack.length - 1];
    const child = top.waiting.shift();
    if (!child) {
      if (top.until > top.from) pieces.push({ span: top.span, from: top.from, to: top.until });
      stack.pop();
    } else if (child.to <= top.until && child.from < child.to) {
      if (top.until > child.to) pieces.push({ span: top.span, from: child.to, to: top.until });
      top.until = child.from;
      stack.push(frame(child.span, child.from, child.to));
    }
  }
  return pieces.filter((piece) => !piece.span.missing);
}

function frame(span, from, until) {
  const waiting = span.children.filter(isAwaited)
    .map((child) => ({ span: child, from: Math.max(child.start, from), to: Math.min(child.end, until) }));
  return { span, from, until, waiting: waiting.sort((a, b) => b.to - a.to || b.from - a.from) };
}

const isAwaited = (span) => span.kind !== "consumer" && span.kind !== "producer";

// Time within a span in which none of its children ran.
export function selfTime(span) {
  let busy = 0;
  let until = span.start;
  for (const child of span.children) {
    const from = Math.max(child.start, until);
    const to = Math.min(child.end, span.end);
    if (to > from) {
      busy += to - from;
      until = to;
    }
  }
  return Math.max(0, span.end - span.start - busy);
}

// The way of the deadline down to a span, or along the critical path: every span above with a deadline of its own,
// {span, given: what was left when it began, used: what it took, left: what was left at its end (below 0: too late)}.
export function budget(span, known) {
  const hops = [];
  const seen = new Set();
  for (let one = span; one && !seen.has(one); one = known.get(one.parent)) {
    seen.add(one);
    if (one.deadline === null) continue;
    const used = one.end - one.start;
    hops.unshift({ span: one, given: one.deadline, used, left: one.deadline - used });
  }
  return hops;
}

// The rows that are seen when some spans are folded up.
export function unfolded(spans, folded) {
  const rows = [];
  let below = Infinity;
  for (const span of spans) {
    if (span.depth > below) continue;
    below = folded.has(span.id) ? span.depth : Infinity;
    rows.push(span);
  }
  return rows;
}
