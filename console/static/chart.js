// Lines over time as SVG, with the values under the pointer told in words.
import { el, svg } from "./dom.js";
import { clock } from "./format.js";

const HEIGHT = 160;
const LEFT = 56;
const BOTTOM = 20;
const TOP = 8;

// `times` in ms, `lines` as [{name, class, values: numbers or null}], `format` makes text of a value.
// Answers a figure; a line breaks where a value is null. It is as wide as its place, and its letters are as large as
// others when that is `width` pixels.
export function chart({ title, times, lines, format, width = 560 }) {
  const top = ceiling(Math.max(0, ...lines.flatMap((line) => line.values.filter((value) => value !== null))));
  const x = (at) => LEFT + ((width - LEFT - 8) * at) / Math.max(1, times.length - 1);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const told = el("span", { class: "told", "aria-live": "off" });
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${summary(lines, format)}` },
    [0, 0.5, 1].map((share) => rule(y(top * share), top * share ? format(top * share) : "0", width)),
    stamps(times, x),
    lines.map((line) => svg("path", { class: `line ${line.class ?? ""}`, d: trace(line.values, x, y) })),
    cursor,
  );
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * width - LEFT) / (width - LEFT - 8);
    const at = Math.min(times.length - 1, Math.max(0, Math.round(share * (times.length - 1))));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(at));
    cursor.setAttribute("visibility", "visible");
    told.textContent = `${clock(times[at])} · ${lines.map((line) => `${line.name} ${shown(line.values[at], format)}`).join(" · ")}`;
  });
  drawing.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    told.textContent = "";
  });
  return el("figure", { class: "chart" },
    el("figcaption", {}, el("span", { class: "title" }, title), legend(lines), told),
    drawing,
  );
}

const shown = (value, format) => (value === null || value === undefined ? "–" : format(value));

const legend = (lines) => lines.length > 1 && el("span", { class: "legend" },
  lines.map((line) => el("span", { class: `key ${line.class ?? ""}` }, line.name)));

const summary = (lines, format) => lines.map((line) => {
  const values = line.values.filter((value) => value !== null);
  return `${line.name} ${values.length ? `${format(Math.min(...values))} to ${format(Math.max(...values))}` : "none"}`;
}).join(", ");

const rule = (at, text, width) => svg("g", { class: "rule" },
  svg("line", { x1: LEFT, x2: width - 8, y1: at, y2: at }),
  svg("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, text));

function stamps(times, x) {
  if (times.length < 2) return [];
  const at = [0, Math.floor((times.length - 1) / 2), times.length - 1];
  return at.map((one, nth) => svg("text", { class: "stamp", x: x(one), y: HEIGHT - 4, "text-anchor": ["start", "middle", "end"][nth] }, clock(times[one])));
}

// The least of 1, 2, 5, 10, 20, ... that is not below a value.
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value * 0.999999) * power;
}

// Path through the points; a value that stands alone is a dot.
export function trace(values, x, y) {
  let path = "";
  values.forEach((value, at) => {
    if (value === null || value === undefined) return;
    const goesOn = at > 0 && values[at - 1] !== null && values[at - 1] !== undefined;
    path += `${goesOn ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}${goesOn ? "" : "h.01"}`;
  });
  return path;
}
