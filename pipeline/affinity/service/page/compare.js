// The Compare section: two versions side by side, what moved, and what came closer.

import { address, onAddress, setAddress } from "./address.js";
import { byId, fillSelect, make, makeTable, notice } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { showLegend } from "./legend.js";
import { withCuts } from "./measures.js";
import { count, date, fixed, number, plural } from "./numbers.js";
import { divergingScale, groupBadge, groupName, sequentialScale } from "./palette.js";
import { encode, get } from "./service.js";
import { at, quantile, sortedPairs } from "./triangle.js";
import { NO_VERSION, versionChoices, versionList } from "./versions.js";

const MOST_MOVED = 400;

const pictures = new Map(); // first, second, change -> {element, title, legend, heatmap}
let shown = "";

export function startCompare() {
  startPictures();
  byId("compare-a").addEventListener("change", (event) => setAddress({ a: event.target.value }));
  byId("compare-b").addEventListener("change", (event) => setAddress({ b: event.target.value }));
  byId("compare-swap").addEventListener("click", () =>
    setAddress({ a: byId("compare-b").value, b: byId("compare-a").value }),
  );
  onAddress(offerVersions);
}

/** The list of versions, or what the address asks for, has changed. */
export async function offerVersions() {
  const versions = versionList();
  if (address().tab !== "compare" || versions === null) return;
  if (versions.length < 2) {
    byId("compare").replaceChildren();
    notice(
      byId("compare-problem"),
      versions.length ? "There is one affinity version only; a second one is needed to compare." : NO_VERSION(),
    );
    return;
  }
  const { a = versions[1].id, b = versions[0].id } = address();
  fillSelect(byId("compare-a"), versionChoices(), a);
  fillSelect(byId("compare-b"), versionChoices(), b);
  const key = `${a} ${b}`;
  if (key === shown) return;
  shown = key;
  try {
    const comparison = await get(`v1/versions/${encode(a)}/compare/${encode(b)}`);
    if (shown !== key) return;
    notice(byId("compare-problem"), "");
    show(comparison);
  } catch (error) {
    shown = "";
    byId("compare").replaceChildren();
    notice(byId("compare-problem"), error.message);
  }
}

function show(comparison) {
  const { a, b, shared, moved } = comparison;
  byId("compare").replaceChildren(
    summary(comparison),
    shared.length
      ? make(
          "div",
          { class: "columns even" },
          make("div", { class: "card" }, make("h3", {}, "Who moved"), movedTable(comparison)),
          make("div", { class: "card" }, make("h3", {}, "Groups against groups"), flowTable(comparison)),
        )
      : "",
    onlyInOne(comparison),
    shared.length > 1
      ? make(
          "div",
          { class: "columns three" },
          [...pictures.values()].map(({ element }) => element),
          make(
            "p",
            { class: "quiet wide" },
            "All three in the order and with the group boxes of the first version. A median is that of each version’s own distances, " +
              "so gradients that only grew or shrank do not show.",
          ),
        )
      : make("p", { class: "notice" }, "They share too few datasets for a comparison of pairs."),
  );
  if (shared.length > 1) showPictures(comparison);
  byId("compare").dataset.shown = `${a.id} ${b.id} ${moved.length}`;
}

function summary({
  a,
  b,
  shared,
  moved,
  adjusted_rand_index: rand,
  rank_correlation: correlation,
  same_spec: sameSpec,
}) {
  const side = (words, version) =>
    make(
      "div",
      {},
      make("dt", {}, words),
      make(
        "dd",
        {},
        make("span", { class: "id" }, version.id),
        make(
          "small",
          { class: "quiet" },
          `${date(version.created)}, ${version.method}, ${plural(version.group_sizes.length, "group")}`,
        ),
      ),
    );
  const fact = (name, value, meaning) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", { class: "quiet" }, meaning)));
  return make(
    "div",
    {},
    make(
      "dl",
      { class: "tiles" },
      side("From", a),
      side("To", b),
      fact("Same groups?", fixed(rand), "adjusted Rand index: 1 is the same, 0 chance"),
      fact("Same order of pairs?", fixed(correlation), "rank correlation of the distances"),
      fact("Moved", `${count(moved.length)} of ${count(shared.length)}`, "to another group"),
    ),
    sameSpec
      ? ""
      : make(
          "p",
          { class: "notice" },
          "The two were made with different kinds of sketches; some of the difference comes from that.",
        ),
  );
}

/** Where a group of the second version stands in the first one's names; null for a new group. */
function oldNumber(matched, to) {
  const from = matched.indexOf(to);
  return from < 0 ? null : from;
}

function movedTable({ moved, shared, matched }) {
  if (!moved.length) return make("p", {}, `Nobody: all ${plural(shared.length, "shared dataset")} kept company.`);
  const columns = [{ words: "Dataset" }, { words: "From" }, { words: "To" }];
  const table = makeTable(
    "Datasets that moved",
    columns,
    moved
      .slice(0, MOST_MOVED)
      .map(({ dataset, from, to }) => [
        dataset,
        groupBadge(from),
        oldNumber(matched, to) === null ? "a new group" : groupBadge(oldNumber(matched, to)),
      ]),
  );
  return make("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Datasets that moved" }, table);
}

function flowTable({ flow, matched }) {
  const columns = [
    { words: "From \\ to" },
    ...flow[0].map((_, to) => ({ words: newName(matched, to), class: "number" })),
  ];
  const table = makeTable(
    "How many datasets of each group went to which",
    columns,
    flow.map((row, from) => [
      groupBadge(from),
      ...row.map((datasets, to) =>
        make("span", { class: matched[from] === to ? "stayed" : null }, datasets ? count(datasets) : "·"),
      ),
    ]),
  );
  return make(
    "div",
    {},
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Groups against groups" }, table),
    make(
      "p",
      { class: "quiet" },
      "Framed: the pairs of groups that count as the same one, because they share the most. The first version’s names are used.",
    ),
  );
}

function newName(matched, to) {
  const old = oldNumber(matched, to);
  if (old === null) return `new (its ${groupName(to)})`;
  return old === to ? groupName(to) : `${groupName(old)} (its ${groupName(to)})`;
}

function onlyInOne({ only_in_a: first, only_in_b: second, a, b }) {
  const list = (names, version) =>
    names.length ? make("p", {}, make("b", {}, `Only in ${version.id}: `), names.join(", ")) : "";
  return first.length || second.length
    ? make("div", { class: "card" }, make("h3", {}, "Not in both"), list(first, a), list(second, b))
    : "";
}

function startPictures() {
  for (const name of ["first", "second", "change"]) {
    const [title, picture, legend] = [make("h3"), make("div"), make("div")];
    const heatmap = new Heatmap(picture, "Distances of the versions compared", (row, column) => {
      for (const other of pictures.values())
        if (other.heatmap !== heatmap && other.heatmap.scene) other.heatmap.mark(row, column);
    });
    pictures.set(name, { element: make("div", { class: "card" }, title, picture, legend), title, legend, heatmap });
  }
}

/** Both versions and their difference, in the order and with the groups of the first one. */
function showPictures({ a, b, shared, difference }) {
  const far = Math.max(...[a, b].map((version) => quantile(sortedPairs(version.matrix), 0.98)));
  const scaleOf = (matrix) => withCuts(sequentialScale(0, far, "low"), sortedPairs(matrix));
  const sorted = sortedPairs(difference);
  const change = withCuts(divergingScale(Math.max(-quantile(sorted, 0.02), quantile(sorted, 0.98))), sorted);
  // Coming closer is drawn like help, drawing apart like hindrance.
  const closer = { ...change, rgb: (value) => change.rgb(-value) };
  const describe = (i, j) =>
    i === j
      ? [shared[i], "a dataset with itself"]
      : [
          `${shared[i]} and ${shared[j]}`,
          `from ${number(at(a.matrix, i, j))} to ${number(at(b.matrix, i, j))} medians`,
          `change ${number(at(difference, i, j))}`,
        ];
  const fill = (name, words, matrix, scale, legend) => {
    const picture = pictures.get(name);
    picture.title.textContent = words;
    picture.heatmap.show({
      names: shared,
      matrix,
      scale,
      boxes: boxesOf(a.group),
      dendrogram: null,
      diagonal: false,
      isUnclear: null,
      short: (value) => fixed(value, 1),
      describe,
    });
    showLegend(picture.legend, { scale, ...legend });
  };
  const ofDistance = { title: "Squared distance in medians", low: "alike", high: "apart" };
  fill("first", `From ${a.id}`, a.matrix, scaleOf(a.matrix), ofDistance);
  fill("second", `To ${b.id}`, b.matrix, scaleOf(b.matrix), ofDistance);
  fill("change", "Change", difference, closer, { title: "Change in medians", low: "closer", high: "further apart" });
}

/** Runs of one group in the order shown. */
function boxesOf(group) {
  const boxes = [];
  group.forEach((number, i) => {
    if (i === 0 || group[i - 1] !== number) boxes.push({ number, start: i, size: 0 });
    boxes.at(-1).size += 1;
  });
  return boxes;
}
