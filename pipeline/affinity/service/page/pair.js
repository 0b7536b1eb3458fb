// The chosen pair: its value on the scale of all pairs, and who is near to the chosen dataset.

import { draw, longName, make } from "./dom.js";
import { MEASURES, aboutDataset, intervalWords } from "./measures.js";
import { number } from "./numbers.js";
import { groupBadge, groupMark } from "./palette.js";
import { at, sortedPairs } from "./triangle.js";

const NEIGHBOURS = 5;
const WIDTH = 260;

let sorted = null;
let sortedOf = null;

export function showPair(container, view, row, column) {
  if (!view || row === null) {
    container.replaceChildren(
      make("h3", {}, "Chosen pair"),
      make("p", { class: "quiet" }, "Point at a cell, or press Tab to reach the heatmap and move with the arrow keys."),
    );
    return;
  }
  const [a, b] = [view.datasets[row], view.datasets[column]];
  const value = at(view.matrix, row, column);
  const [low, high] = view.low ? [at(view.low, row, column), at(view.high, row, column)] : [null, null];
  const measure = MEASURES[view.metric];
  container.replaceChildren(
    make("h3", {}, "Chosen pair"),
    make("p", { class: "pair-names" }, named(a), row === column ? " with itself" : [" and ", named(b)]),
    make(
      "p",
      { class: "pair-value" },
      make("strong", {}, number(value)),
      ` ${measure.name}${value === null ? " (not defined)" : ""}`,
    ),
    row === column ? "" : make("p", { class: "quiet" }, intervalWords(low, high, view.level)),
    row === column || value === null ? "" : ruler(view, value, low, high),
    make(
      "dl",
      { class: "facts stacked" },
      (row === column ? [a] : [a, b]).flatMap((dataset) => [
        make("dt", {}, dataset.name),
        make("dd", {}, aboutDataset(dataset).join(", ")),
      ]),
    ),
    neighbours(view, row),
  );
}

const named = (dataset) =>
  make("span", { class: "nowrap" }, groupBadge(dataset.group), " ", make("b", {}, dataset.name));

/** Where the value and its interval lie among the values of all pairs. */
function ruler(view, value, low, high) {
  if (sortedOf !== view.matrix) [sorted, sortedOf] = [sortedPairs(view.matrix), view.matrix];
  const ends = [sorted[0], sorted.at(-1), value, low, high, 0].filter((end) => Number.isFinite(end));
  const [first, last] = [Math.min(...ends), Math.max(...ends)];
  const x = (at) => 6 + ((at - first) / (last - first || 1)) * (WIDTH - 12);
  const picture = draw(
    "svg",
    { class: "ruler", viewBox: `0 0 ${WIDTH} 40`, "aria-hidden": "true" },
    draw("line", { x1: 0, x2: WIDTH, y1: 24, y2: 24, class: "axis" }),
  );
  const every = Math.max(1, Math.floor(sorted.length / 120));
  for (let i = 0; i < sorted.length; i += every)
    picture.append(draw("line", { x1: x(sorted[i]), x2: x(sorted[i]), y1: 24, y2: 30, class: "other" }));
  picture.append(draw("line", { x1: x(0), x2: x(0), y1: 6, y2: 34, class: "zero" }));
  if (low !== null) picture.append(draw("line", { x1: x(low), x2: x(high), y1: 14, y2: 14, class: "whisker" }));
  picture.append(draw("circle", { cx: x(value), cy: 14, r: 5, class: "dot" }));
  return make(
    "figure",
    { class: "ruler-frame" },
    picture,
    make("figcaption", { class: "quiet" }, "Ticks: all pairs. The tall line is 0."),
  );
}

function neighbours(view, row) {
  const { isNear } = MEASURES[view.metric];
  const others = view.datasets
    .map((dataset, i) => ({ dataset, value: at(view.matrix, row, i), i }))
    .filter(({ value, i }) => i !== row && value !== null)
    .sort((p, q) => isNear(p.value, q.value));
  const list = (title, found) =>
    make(
      "div",
      {},
      make("h4", {}, title),
      make(
        "ol",
        { class: "near" },
        found.map(({ dataset, value }) =>
          make(
            "li",
            {},
            groupMark(dataset.group),
            longName(dataset.name),
            make("span", { class: "value" }, number(value)),
          ),
        ),
      ),
    );
  if (others.length < 2) return "";
  const half = Math.min(NEIGHBOURS, others.length >> 1);
  return make(
    "div",
    { class: "neighbours" },
    make("p", { class: "quiet" }, "Seen from ", make("b", {}, view.datasets[row].name), ":"),
    list("closest", others.slice(0, half)),
    list("furthest", others.slice(-half).reverse()),
  );
}
