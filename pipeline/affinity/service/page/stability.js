// The Stability section: how many groups there are, whether they are apart, and how sure each dataset's place is.

import { byId, draw, longName, make, makeTable } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { showLegend } from "./legend.js";
import { fixed, percent } from "./numbers.js";
import { groupBadge, groupMark, groupName, sequentialScale } from "./palette.js";
import { at } from "./triangle.js";
import { onView } from "./versions.js";

const UNSURE = 0.7; // below this share a dataset's place is marked
const GAP_WIDTH = 420;

let heatmap = null;
let view = null;

export function startStability() {
  heatmap = new Heatmap(byId("co-assignment"), "Share of resamples that put two datasets into one group");
  byId("confidence-sort").addEventListener("change", showConfidence);
  onView((next) => {
    view = next;
    showNumbersOfGroups();
    showGap();
    showCoAssignment();
    showConfidence();
  });
}

function showNumbersOfGroups() {
  const { rows, chosen } = view.stability;
  if (!rows.length) {
    byId("by-k").replaceChildren(make("p", { class: "quiet" }, "No number of groups was tried out for this version."));
    return;
  }
  const largestGap = Math.max(...rows.map((row) => row.eigengap ?? 0)) || 1;
  const columns = [
    { words: "Groups" },
    { words: "Stability", class: "bar-cell" },
    { words: "Silhouette", class: "bar-cell" },
    { words: "Eigengap", class: "bar-cell" },
  ];
  const table = makeTable(
    "Evidence for each number of groups",
    columns,
    rows.map((row) => [
      row.k === chosen ? make("span", { class: "chosen" }, `${row.k} `, make("small", {}, "chosen")) : String(row.k),
      bar(row.stability, row.stability),
      bar(row.silhouette, row.silhouette),
      bar(row.eigengap, (row.eigengap ?? 0) / largestGap),
    ]),
  );
  table.classList.add("by-k");
  byId("by-k").replaceChildren(
    table,
    make(
      "p",
      { class: "quiet" },
      "Stability: agreement of resampled groups with these (adjusted Rand index). Silhouette: how much nearer datasets are to their own " +
        "group than to the next one. Eigengap: a large one after K speaks for K groups.",
    ),
  );
}

function bar(value, share, words = fixed(value)) {
  if (value === null)
    return make("span", { class: "bar" }, "", make("span"), make("span", { class: "value quiet" }, words));
  const width = Math.max(0, Math.min(1, share)) * 100;
  return make(
    "span",
    { class: "bar" },
    draw(
      "svg",
      { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { x: 0, y: 0, width: 100, height: 10, class: "track" }),
      draw("rect", { x: 0, y: 0, width, height: 10, class: "fill" }),
    ),
    make("span", { class: "value" }, words),
  );
}

/** Mean distance between groups minus within, over the median, with its 90 % interval and 0. */
function showGap() {
  const { gap, gap_low: low, gap_high: high, chosen } = view.stability;
  if (gap === null) {
    byId("gap").replaceChildren(
      make(
        "p",
        { class: "quiet" },
        chosen === 1
          ? "There is one group, so there is nothing to be apart."
          : "Without resampled micro-batches there is no evidence for or against these groups.",
      ),
    );
    return;
  }
  const [first, last] = [Math.min(0, low) - 0.05, Math.max(0, high) + 0.05];
  const x = (value) => 20 + ((value - first) / (last - first)) * (GAP_WIDTH - 40);
  byId("gap").replaceChildren(
    draw(
      "svg",
      {
        class: "gap",
        viewBox: `0 0 ${GAP_WIDTH} 74`,
        role: "img",
        "aria-label": `Gap ${fixed(gap)}, 90 % interval ${fixed(low)} to ${fixed(high)}`,
      },
      draw("line", { x1: 8, x2: GAP_WIDTH - 8, y1: 44, y2: 44, class: "axis" }),
      draw("line", { x1: x(0), x2: x(0), y1: 8, y2: 50, class: "zero" }),
      draw(
        "text",
        { x: x(0), y: 66, "text-anchor": x(0) < 50 ? "start" : x(0) > GAP_WIDTH - 50 ? "end" : "middle" },
        "0: not apart",
      ),
      draw("line", { x1: x(low), x2: x(high), y1: 26, y2: 26, class: "whisker" }),
      draw("line", { x1: x(low), x2: x(low), y1: 18, y2: 34, class: "whisker thin" }),
      draw("line", { x1: x(high), x2: x(high), y1: 18, y2: 34, class: "whisker thin" }),
      draw("circle", { cx: x(gap), cy: 26, r: 6.5, class: "dot" }),
    ),
    make(
      "p",
      {},
      make("strong", {}, fixed(gap)),
      ` (90 % interval ${fixed(low)} to ${fixed(high)})`,
      low > 0 ? ": apart." : ": an interval that covers 0 is no evidence for groups.",
    ),
    make(
      "p",
      { class: "quiet" },
      "How much further apart datasets of different groups are than those of one group, in units of the median " +
        "distance, measured on micro-batches that the groups were not made from.",
    ),
  );
}

function showCoAssignment() {
  const matrix = view.stability.co_assignment;
  byId("co-card").classList.toggle("empty", matrix === null);
  byId("co-meaning").textContent =
    matrix === null
      ? "Without resampled micro-batches this is not known."
      : `Each cell: the share of resamples that put two datasets into one group. Sharp squares are firm groups.${view.group_sizes.length === 1 ? " Here: with the best number of groups, which was rejected." : ""}`;
  if (matrix === null) return;
  const names = view.datasets.map((dataset) => dataset.name);
  const scale = sequentialScale(0, 1, "high");
  heatmap.show({
    names,
    matrix,
    scale,
    boxes: view.groups,
    dendrogram: null,
    diagonal: false,
    isUnclear: null,
    short: (value) => fixed(value),
    describe: (i, j) => [
      i === j
        ? names[i]
        : `${names[i]} (${groupName(view.datasets[i].group)}) and ${names[j]} (${groupName(view.datasets[j].group)})`,
      i === j ? "a dataset with itself" : `together in ${percent(at(matrix, i, j))} of the resamples`,
    ],
  });
  showLegend(byId("co-legend"), {
    scale,
    title: "Share of the resamples",
    low: "never together",
    high: "always together",
    format: percent,
    notes: [
      ["diagonal", "a dataset with itself"],
      ["box", "a group"],
    ],
  });
}

function showConfidence() {
  if (!view) return;
  const known = view.datasets.filter((dataset) => dataset.confidence !== null);
  if (!known.length) {
    byId("confidence").replaceChildren(
      make(
        "p",
        { class: "quiet" },
        view.group_sizes.length === 1
          ? "There is one group; every dataset is in it."
          : "Without resampled micro-batches this is not known.",
      ),
    );
    return;
  }
  const order = {
    confidence: (a, b) => a.confidence - b.confidence,
    group: (a, b) => a.group - b.group || a.confidence - b.confidence,
    name: (a, b) => a.name.localeCompare(b.name),
  }[byId("confidence-sort").value];
  const unsure = known.filter((dataset) => dataset.confidence < UNSURE).length;
  byId("confidence").replaceChildren(
    make(
      "p",
      { class: "quiet" },
      `How often the resamples put a dataset with its own group, on average over the group. ` +
        `${unsure ? `${unsure} of ${known.length} are below ${percent(UNSURE)}.` : `All are at ${percent(UNSURE)} or more (least: ${percent(Math.min(...known.map((d) => d.confidence)))}).`}`,
    ),
    make(
      "ul",
      { class: "confidences", tabindex: 0, "aria-label": "Datasets and how sure their place is" },
      [...known].sort(order).map(row),
    ),
  );
}

function row(dataset) {
  const { confidence, rival, rival_share: share } = dataset;
  return make(
    "li",
    { class: confidence < UNSURE ? "unsure" : null },
    make("span", { class: "marked-name" }, groupMark(dataset.group), longName(dataset.name)),
    bar(confidence, confidence, percent(confidence)),
    make("span", { class: "rival quiet" }, share > 0.05 ? ["next: ", groupBadge(rival), ` ${percent(share)}`] : ""),
  );
}
