// The shell: which page an address is, the way from one to the next without loading anew, and what all pages share.
import { el, empty } from "./dom.js";
import { Failure } from "./api.js";

// Each page is a module with `title(parameters)` and `open(page)`, where `page` has
//   root: the element to fill; parameters: parts of the address; query: URLSearchParams;
//   signal: aborted when the reader goes elsewhere; live(state): tells the state of its connection (see api.js);
//   go(url): to another page; put(query): the address of this page from now on, without going anywhere.
const PAGES = [
  [/^\/console\/$/, "./map.js", "Map"],
  [/^\/console\/traces$/, "./traces.js", "Traces"],
  [/^\/console\/traces\/(?<id>[^/]+)$/, "./trace.js", "Traces"],
  [/^\/console\/services\/(?<name>[^/]+)$/, "./service.js", "Map"],
  [/^\/console\/events$/, "./events.js", "Events"],
  [/^\/console\/mesh$/, "./mesh.js", "Mesh"],
];

const NAVIGATION = [
  ["/console/", "Map"],
  ["/console/traces", "Traces"],
  ["/console/events", "Events"],
  ["/console/mesh", "Mesh"],
];

const root = document.getElementById("page");
let left = new AbortController();

async function show({ focus = true } = {}) {
  left.abort();
  left = new AbortController();
  const { signal } = left;
  live("idle");
  const [file, parameters, name] = match(location.pathname);
  mark(name);
  try {
    if (!file) throw new Failure("There is no such page.");
    const module = await import(file);
    if (signal.aborted) return;
    document.title = `${module.title(parameters)} · Meshwright`;
    root.replaceChildren();
    root.dataset.page = file.slice(2, -3);
    if (focus) root.focus({ preventScroll: true });
    await module.open({ root, parameters, query: new URLSearchParams(location.search), signal, live, go, put });
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) fail(error);
  }
}

function match(path) {
  for (const [pattern, file, name] of PAGES) {
    const found = pattern.exec(path);
    if (!found) continue;
    const parts = Object.entries(found.groups ?? {}).map(([key, value]) => [key, decodeURIComponent(value)]);
    return [file, Object.fromEntries(parts), name];
  }
  return [];
}

function fail(error) {
  if (!(error instanceof Failure)) console.error(error);
  root.replaceChildren(empty(error instanceof Failure ? error.message : `This page failed: ${error.message}`));
}

function go(url) {
  history.pushState(null, "", url);
  scrollTo(0, 0);
  show();
}

function put(query) {
  const text = query.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

const STATES = { idle: "", live: "Live", away: "Connecting …", paused: "Paused" };

function live(state) {
  const node = document.getElementById("live");
  if (node.dataset.state === state) return;
  node.dataset.state = state;
  node.textContent = STATES[state];
}

function mark(name) {
  document.getElementById("nav").replaceChildren(...NAVIGATION.map(([href, text]) =>
    el("a", { href, "aria-current": text === name ? "page" : null }, text)));
}

// Links within the console go without loading anew, unless the reader wants another tab or a file.
document.addEventListener("click", (event) => {
  const found = event.target.closest?.("a[href]");
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
  if (!found || !plain || event.defaultPrevented || found.target || found.hasAttribute("download")) return;
  const url = new URL(found.getAttribute("href"), location.href);
  if (url.origin !== location.origin || !match(url.pathname)[0] || found.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  go(url.href);
});
addEventListener("popstate", () => show());

const THEMES = { auto: "light dark", light: "light", dark: "dark" };
const theme = document.getElementById("theme");

function dress(name) {
  const chosen = name in THEMES ? name : "auto";
  document.documentElement.style.setProperty("color-scheme", THEMES[chosen]);
  theme.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[chosen];
  theme.setAttribute("aria-label", `Colours: ${theme.textContent}`);
  theme.dataset.theme = chosen;
}

theme.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(theme.dataset.theme) + 1) % names.length];
  try {
    localStorage.setItem("theme", next);
  } catch {
    // kept for as long as the page is open
  }
  dress(next);
});

function remembered() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

dress(remembered());
show({ focus: false });
