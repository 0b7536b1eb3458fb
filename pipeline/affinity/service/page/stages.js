// The stages of a run on one line: when each began, why, and which datasets came in.

import { AXES } from "./curves.js";
import { draw, make, makeTable } from "./dom.js";
import { count, number, plural } from "./numbers.js";

const WIDTH = 1000;
const HEIGHT = 30;
const SHADES = 6;
const MOST_NAMES = 24;

const RULES = {
  start: "the run began",
  plateau: "the pool’s loss was flat",
  max_tokens: "the stage had used up its tokens",
  max_share: "the stage had used up its share of the steps",
};

/** The stages as bars; `along`: the ends of the axis, `begins`: where each stage begins on it. */
export function stageBar(stages, along, begins, isRunning) {
  if (!stages.length) return make("p", { class: "quiet" }, "No stage has begun yet.");
  const [first, last] = along;
  const x = (value) => ((value - first) / (last - first || 1)) * WIDTH;
  const length = (i) => x(begins[i + 1] ?? last) - x(begins[i]);
  const bar = draw(
    "svg",
    { class: "stages", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    stages.map((_, i) =>
      draw("rect", {
        x: x(begins[i]) + (i ? 1.5 : 0),
        y: 0,
        height: HEIGHT,
        class: `shade-${i % SHADES}`,
        width: Math.max(2, length(i) - (i ? 1.5 : 0)),
      }),
    ),
  );
  const labels = make(
    "ol",
    { class: "stage-labels" },
    stages.map((stage, i) => {
      const item = make(
        "li",
        {},
        make("b", {}, `stage ${stage.stage ?? i}`),
        ` ${plural(stage.pool.length, "dataset")}`,
      );
      item.style.flexGrow = Math.max(length(i), 1);
      return item;
    }),
  );
  return make("div", { class: isRunning ? "stage-bar running" : "stage-bar" }, bar, labels);
}

/** The same in words. */
export function stageTable(stages, begins, axis) {
  const columns = [
    { words: "Stage" },
    { words: "Began at step", class: "number" },
    { words: `at ${AXES[axis].words}`, class: "number" },
    { words: "Because" },
    { words: "Came in", class: "words" },
  ];
  const isShown = [true, true, axis !== "step", stages.some((stage) => stage.reason), true];
  const table = makeTable(
    "Stages",
    columns.filter((_, i) => isShown[i]),
    stages.map((stage, i) =>
      [
        String(stage.stage ?? i),
        count(stage.step),
        AXES[axis].format(begins[i]),
        reason(stage),
        changes(stage, stages[i - 1]),
      ].filter((_, j) => isShown[j]),
    ),
  );
  table.classList.add("stacking");
  return make("div", { class: "scroll plain" }, table);
}

function changes(stage, previous) {
  const before = new Set(previous?.pool ?? []);
  const now = new Set(stage.pool);
  const came = stage.pool.filter((name) => !before.has(name)).sort();
  const left = [...before].filter((name) => !now.has(name)).sort();
  return `${listed(came) || "nothing new"}${left.length ? `; left: ${listed(left)}` : ""}`;
}

function listed(names) {
  return (
    names.slice(0, MOST_NAMES).join(", ") + (names.length > MOST_NAMES ? ` and ${names.length - MOST_NAMES} more` : "")
  );
}

function reason(stage) {
  const { rule, ...numbers } = stage.reason ?? {};
  if (!rule) return "–";
  const words = Object.entries(numbers)
    .filter(([, value]) => typeof value === "number")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${number(value)}`);
  return `${RULES[rule] ?? rule.replaceAll("_", " ")}${words.length ? ` (${words.join(", ")})` : ""}`;
}
