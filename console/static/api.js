// What the page asks of the console, and of the gateway that is before it.

export class Failure extends Error {}

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
  if (!response.ok || body === null) throw new Failure(said(body) ?? `${response.status} ${response.statusText}`);
  return body;
}

const said = (body) => body?.errors?.[0]?.msg ?? body?.message;

const AGAIN_MS = 2000;

// Server-sent events at a path until the signal aborts: `take` gets each message as JSON, `tell` the state of the
// connection (live, away, paused). A hidden page is paused, as a browser has few connections for all its tabs.
export function follow(path, take, tell, signal) {
  let source = null;
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const open = () => {
    close();
    source = new EventSource(path);
    source.onopen = () => tell("live");
    source.onmessage = (message) => {
      tell("live");
      take(JSON.parse(message.data), message);
    };
    source.onerror = () => {
      tell("away");
      close();
      timer = setTimeout(open, AGAIN_MS);
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
}

// The state of one topic of the console, whole at each message.
export const followTopic = (topic, take, tell, signal) => follow(`/console/data/live?topic=${topic}`, take, tell, signal);
