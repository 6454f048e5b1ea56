// Events of the services in words. Pure.

export const kindOf = (event) => event.type.split(".")[0];

// What happened, in a word; to what, in a few; and what that means: ok, bad or nothing.
export function about(event) {
  const verb = event.type.slice(event.type.indexOf(".") + 1);
  const means = { failed: "bad", succeeded: "ok", completed: "ok" }[verb] ?? "";
  if (event.order) return [verb, of(event.order), means];
  if (event.user) return [verb, event.user.displayName || event.user.userName || event.subject, means];
  if (event.sync) return [verb, [event.sync.provider, fetched(event.sync.counts), event.sync.error].filter(Boolean).join(" · "), means];
  return [verb, event.subject, means];
}

const of = (order) => [order.id?.slice(0, 8), total(order), order.failure, order.cancelReason].filter(Boolean).join(" · ");

// Exactly, as money is: two places at least, nine at most.
const total = ({ total: money }) => (money ? `${money.units ?? 0}.${String(money.nanos ?? 0).padStart(9, "0").replace(/0{1,7}$/, "")} ${money.currencyCode}` : "");

const fetched = (counts) => (counts?.fetched ? `${counts.fetched} users` : "");

// The trace that an event came about in; empty when there was none.
export const traceOf = ({ traceparent = "" }) => /^[0-9a-f]{2}-([0-9a-f]{32})-/.exec(traceparent)?.[1] ?? "";

// A place in the stream, some events of each service before another one: `order-12,sync-907` to `order-2,sync-897`.
export const rewound = (place, back) => place.split(",").map((part) => {
  const at = part.lastIndexOf("-");
  return `${part.slice(0, at)}-${Math.max(0, Number(part.slice(at + 1)) - back)}`;
}).join(",");
