// A table whose rows can change, sorted by a click on a column.
import { el } from "./dom.js";

// Columns: {title, cell(row) -> text or node, number: whether it is one, sort(row) -> what to sort by, hide: on phones}.
// Options: {label, sorted: title to begin with (as given unless named), rowClass(row), key(row)}.
// Answers {node, update(rows)}.
export function table(columns, { label, rowClass } = {}) {
  let rows = [];
  let sorted = null;
  const body = el("tbody");
  const heads = columns.map((column) =>
    el("th", { scope: "col", class: classes(column) }, column.sort ? sorter(column) : column.title),
  );
  const node = el("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" },
    el("table", {}, el("thead", {}, el("tr", {}, heads)), body),
  );

  function sorter(column) {
    return el("button", { type: "button", class: "plain", on: { click: () => sortBy(column) } }, column.title);
  }

  // First the most, then the least, then as it came.
  function sortBy(column) {
    if (sorted?.column !== column) sorted = { column, sign: -1 };
    else sorted = sorted.sign === -1 ? { column, sign: 1 } : null;
    heads.forEach((head, at) => {
      if (sorted?.column === columns[at]) head.setAttribute("aria-sort", sorted.sign === -1 ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    draw();
  }

  function draw() {
    const value = sorted?.column.sort;
    const ordered = value ? [...rows].sort((a, b) => sorted.sign * compare(value(a), value(b))) : rows;
    body.replaceChildren(...ordered.map((row) =>
      el("tr", { class: rowClass?.(row) }, columns.map((column) => el("td", { class: classes(column) }, column.cell(row)))),
    ));
  }

  return {
    node,
    update(found) {
      rows = found;
      draw();
    },
  };
}

const classes = (column) => [column.number && "number", column.hide && "wide"].filter(Boolean).join(" ") || null;

const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : (a ?? -1) - (b ?? -1));
