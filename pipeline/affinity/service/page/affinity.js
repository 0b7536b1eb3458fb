// The Affinity section: the heatmap, the chosen pair beside it, and what the version says of itself.

import { byId, make } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { showLegend } from "./legend.js";
import { MEASURES, NOISE_SCALE_MEANING, cellNumbers, intervalWords, meaningOf, scaleOf, withCuts } from "./measures.js";
import { count, date, duration, fixed, number, percent, plural, powerOfTen, tick } from "./numbers.js";
import { groupBadge, groupName, sequentialScale } from "./palette.js";
import { showPairs } from "./pairs.js";
import { showPair } from "./pair.js";
import { at, quantile, sortedPairs } from "./triangle.js";
import { onView } from "./versions.js";

let heatmap = null;
let view = null;

export function startAffinity() {
  heatmap = new Heatmap(byId("heatmap"), "Affinity of every pair of datasets", (row, column) =>
    showPair(byId("pair"), view, row, column),
  );
  byId("colour-by").addEventListener("change", draw);
  onView((next) => {
    view = next;
    byId("metric-meaning").textContent = meaningOf(view);
    showVerdict();
    showAbout();
    const widths = byId("colour-by");
    widths.disabled = view.low === null;
    if (view.low === null) widths.value = "value";
    draw();
    showPairs(view);
  });
}

function draw() {
  if (!view) return;
  const isWidth = byId("colour-by").value === "width";
  const measure = MEASURES[view.metric];
  const matrix = isWidth ? view.matrix.map((row, i) => row.map((_, j) => width(i, j))) : view.matrix;
  const scale = isWidth ? widthScale(matrix) : scaleOf(view.metric, matrix);
  const { exponent, short } = cellNumbers(scale);
  const names = view.datasets.map((dataset) => dataset.name);
  const showsUnclear = view.metric === "cosine" && view.low !== null && !isWidth;
  heatmap.show({
    names,
    matrix,
    scale,
    short,
    boxes: view.groups,
    dendrogram: view.dendrogram,
    diagonal: measure.hasDiagonal && !isWidth,
    describe,
    isUnclear: showsUnclear ? isUnclear : null,
  });
  const notes = [
    [view.metric === "gram" && !isWidth ? "" : "diagonal", "a dataset with itself"],
    ["undefined", "not defined: the gradient is lost in noise"],
    ["box", "a group"],
    ["unclear", "the interval covers 0: help or hindrance is not known"],
  ];
  showLegend(byId("heatmap-legend"), {
    scale,
    title:
      (isWidth
        ? `Width of the interval of the ${measure.name}`
        : measure.name.charAt(0).toUpperCase() + measure.name.slice(1)) +
      (exponent ? `, in units of ${powerOfTen(exponent)}` : ""),
    format: (value) => tick(value / 10 ** exponent),
    low: isWidth ? "sure" : measure.low,
    high: isWidth ? "unsure" : measure.high,
    notes: notes.filter(
      ([mark]) => mark && (mark !== "undefined" || hasUndefined()) && (mark !== "unclear" || showsUnclear),
    ),
  });
}

function width(i, j) {
  const [low, high] = [at(view.low, i, j), at(view.high, i, j)];
  return low === null || high === null ? null : high - low;
}

function widthScale(matrix) {
  const sorted = sortedPairs(matrix);
  return withCuts(sequentialScale(0, quantile(sorted, 0.98), "high"), sorted);
}

const hasUndefined = () => view.matrix.some((row) => row.includes(null));

function isUnclear(i, j) {
  return i !== j && at(view.low, i, j) < 0 && at(view.high, i, j) > 0 && at(view.low, i, j) !== null;
}

function describe(i, j) {
  const [a, b] = [view.datasets[i], view.datasets[j]];
  const value = at(view.matrix, i, j);
  const named = (dataset) => `${dataset.name} (${groupName(dataset.group)})`;
  const title = i === j ? `${named(a)} with itself` : `${named(a)} and ${named(b)}`;
  const words =
    value === null ? `${MEASURES[view.metric].name} not defined` : `${MEASURES[view.metric].name} ${number(value)}`;
  if (i === j) return [title, words];
  if (view.low === null) return [title, words, view.module ? "no interval for a part of the model" : "no interval"];
  return [title, words, intervalWords(at(view.low, i, j), at(view.high, i, j), view.level)];
}

function showVerdict() {
  const sizes = view.group_sizes;
  byId("verdict").replaceChildren(
    make(
      "div",
      { class: "verdict-groups" },
      sizes.map((size, number) => make("span", {}, groupBadge(number), ` ${plural(size, "dataset")}`)),
    ),
    make("p", { class: "verdict-words" }, sentence(view.verdict)),
    warnings(),
  );
}

const sentence = (words) => `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;

function warnings() {
  const lines = view.warnings;
  if (!lines.length) return "";
  return make(
    "details",
    { class: "warnings" },
    make("summary", {}, plural(lines.length, "warning")),
    make(
      "ul",
      {},
      lines.map((line) => make("li", {}, line)),
    ),
  );
}

function showAbout() {
  const { parameters, cost, spec, grouping } = view;
  const batches = view.datasets.map((dataset) => dataset.batches).filter(Number.isFinite);
  const scales = view.datasets.map((dataset) => dataset.noise_scale);
  const known = scales.filter((scale) => scale !== null).sort((a, b) => a - b);
  const facts = [
    ["Name", view.id],
    ["Made", date(view.created)],
    ["Method", view.method],
    ["Datasets", count(view.datasets.length)],
    ["Micro-batches", batches.length ? span(batches) : null],
    [
      "Noise scale",
      known.length
        ? `${number(known[0])} to ${number(known.at(-1))}, median ${number(known[known.length >> 1])}`
        : "not known",
    ],
    ["Resamples", parameters.resamples && `${count(parameters.resamples)}, ${percent(parameters.level)} intervals`],
    ["Reliability", view.reliability === null ? null : `${fixed(view.reliability)} (split halves)`],
    [
      "Groups",
      [grouping.source, grouping.metric && `by ${grouping.metric}`, grouping.order && `${grouping.order} order`]
        .filter(Boolean)
        .join(", "),
    ],
    [
      "Cost",
      Object.entries(cost)
        .map(([name, value]) => costWords(name, value))
        .join(", "),
    ],
    [
      "Sketch",
      Object.entries(spec)
        .map(([name, value]) => `${name} ${value}`)
        .join(", "),
    ],
    ["Source", view.source && view.source.slice(0, 12)],
  ];
  byId("about").replaceChildren(
    make(
      "dl",
      { class: "facts" },
      facts
        .filter(([, words]) => words)
        .flatMap(([name, words]) => [make("dt", {}, name), make("dd", {}, String(words))]),
    ),
    make("p", { class: "quiet" }, NOISE_SCALE_MEANING),
  );
}

function span(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? `${count(low)} of each dataset` : `${count(low)} to ${count(high)} of a dataset`;
}

function costWords(name, value) {
  if (name.endsWith("_s") || name === "seconds")
    return `${name.replace(/_?s(econds)?$/, "").replaceAll("_", " ")} ${duration(value)}`.trim();
  return `${name.replaceAll("_", " ")} ${typeof value === "number" ? count(value) : value}`;
}
