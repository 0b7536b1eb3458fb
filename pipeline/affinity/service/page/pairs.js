// The heatmap as a table: all pairs of one dataset, for screen readers and for exact numbers.

import { byId, fillSelect, makeTable } from "./dom.js";
import { MEASURES } from "./measures.js";
import { NONE, number } from "./numbers.js";
import { groupBadge } from "./palette.js";
import { at } from "./triangle.js";

let view = null;

export function showPairs(next) {
  view = next;
  const chosen = byId("pairs-of").value;
  fillSelect(
    byId("pairs-of"),
    view.datasets.map((dataset) => [dataset.name, dataset.name]),
  );
  if (view.datasets.some((dataset) => dataset.name === chosen)) byId("pairs-of").value = chosen;
  byId("pairs-of").onchange = fill;
  byId("pairs-table").ontoggle = fill;
  fill();
}

function fill() {
  if (!byId("pairs-table").open) return; // 200 rows are made only for those who look at them
  const row = Math.max(
    0,
    view.datasets.findIndex((dataset) => dataset.name === byId("pairs-of").value),
  );
  const { name, isNear } = MEASURES[view.metric];
  const others = view.datasets
    .map((dataset, i) => ({
      dataset,
      value: at(view.matrix, row, i),
      low: view.low && at(view.low, row, i),
      high: view.high && at(view.high, row, i),
      i,
    }))
    .filter(({ i }) => i !== row);
  others.sort((a, b) => (a.value === null) - (b.value === null) || isNear(a.value, b.value));
  const columns = [
    { words: "Dataset" },
    { words: "Group" },
    { words: name, class: "number" },
    { words: "Interval from", class: "number" },
    { words: "to", class: "number" },
    { words: "Noise scale", class: "number" },
  ];
  byId("pairs").replaceChildren(
    makeTable(
      `${name} between ${view.datasets[row].name} and every other dataset`,
      columns,
      others.map(({ dataset, value, low, high }) => [
        dataset.name,
        groupBadge(dataset.group),
        value === null ? "not defined" : number(value),
        view.low ? number(low) : NONE,
        view.high ? number(high) : NONE,
        number(dataset.noise_scale),
      ]),
    ),
  );
}
