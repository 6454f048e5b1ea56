// What the page asks of the console, and of the gateway that is before it.

export class Failure extends Error {
  // `reason` is the error's own, such as EVENTS_EXPIRED; empty where it has none.
  constructor(message, reason = "") {
    super(message);
    this.reason = reason;
  }
}

// JSON at a path of this origin. Throws a Failure that says what the other side said.
export async function get(path, signal) {
  let response;
  try {
    response = await fetch(path, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The console does not answer.");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok || body === null) throw new Failure(said(body) ?? `${response.status} ${response.statusText}`, reasonOf(body));
  return body;
}

const said = (body) => body?.errors?.[0]?.msg ?? body?.message;

// Why something was refused, by the ErrorInfo of a google.rpc.Status.
export const reasonOf = (body) => body?.details?.find?.((one) => one?.reason)?.reason ?? "";

// Why a stream was refused, which its EventSource does not say; empty when it is not refused any more, or nobody answers.
async function refusal(path, signal) {
  const end = new AbortController();
  try {
    const response = await fetch(path, { signal: AbortSignal.any([signal, end.signal]) });
    return response.ok ? "" : reasonOf(await response.json());
  } catch {
    return "";
  } finally {
    end.abort();
  }
}

const AGAIN_MS = 2000;

// Server-sent events at a path until the signal aborts: `take` gets each message as JSON, `tell` the state of the
// connection (live, away, paused). A hidden page is paused, as a browser has few connections for all its tabs.
// `path` may be a function that is asked at each connection, so that one goes on where the last one ended.
// `refused` is told of the reason when the stream is refused, before it is asked for again.
// Answers a function that connects anew.
export function follow(path, take, tell, signal, refused = null) {
  let source = null;
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const open = () => {
    close();
    source = new EventSource(typeof path === "function" ? path() : path);
    source.onopen = () => tell("live");
    source.onmessage = (message) => {
      tell("live");
      take(JSON.parse(message.data), message);
    };
    source.onerror = async ({ target }) => {
      tell("away");
      const isRefused = target.readyState === EventSource.CLOSED;
      close();
      timer = setTimeout(open, AGAIN_MS);
      if (refused && isRefused) refused(await refusal(target.url, signal));
    };
  };
  const look = () => {
    if (document.hidden) {
      close();
      tell("paused");
    } else if (source === null) open();
  };
  document.addEventListener("visibilitychange", look, { signal });
  signal.addEventListener("abort", () => {
    close();
    tell("idle");
  });
  look();
  return () => !signal.aborted && !document.hidden && open();
}

// JSON at a path now and every so many milliseconds while the page is seen, until the signal aborts. What fails is told
// as "away", and asked again. `path` as in `follow`; answers a function that asks at once.
export function repeat(path, every, take, tell, signal) {
  let timer = 0;
  let turn = 0;
  const ask = async () => {
    clearTimeout(timer);
    const mine = ++turn;
    try {
      const found = await get(typeof path === "function" ? path() : path, signal);
      if (mine !== turn) return;
      tell("live");
      take(found);
    } catch (error) {
      if (error.name === "AbortError" || mine !== turn) return;
      tell("away", error);
    }
    timer = setTimeout(look, every);
  };
  const look = () => {
    if (!document.hidden) ask();
    else tell("paused");
  };
  document.addEventListener("visibilitychange", look, { signal });
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    tell("idle");
  });
  look();
  return ask;
}

// The state of one topic of the console, whole at each message.
export const followTopic = (topic, take, tell, signal) => follow(`/console/data/live?topic=${topic}`, take, tell, signal);
