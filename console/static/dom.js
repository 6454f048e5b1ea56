// Elements. Everything that comes from a span goes in by textContent: it stays text. Style is set by CSSOM, as the
// page's policy has no inline style.

const SVG = "http://www.w3.org/2000/svg";

export const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);

export const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

// Attributes: `on` has listeners, `style` properties; true is an empty attribute, false and null are none.
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (key === "style") for (const [property, one] of Object.entries(value)) node.style.setProperty(property, one);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// A link within the console, or to wherever.
export const link = (href, ...children) => el("a", { href }, ...children);

// A term and what is said of it, as one list.
export const facts = (pairs) =>
  el("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(
    ([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value)),
  ));

// A name made of words put together, such as a method's, that may be broken between them.
export const breakable = (name) => name.split(/(?<=[a-z0-9])(?=[A-Z])/).flatMap((word, at) => (at ? [el("wbr"), word] : [word]));

export const empty = (...children) => el("p", { class: "empty" }, ...children);
