// Small line charts of one value over training, one a dataset, and the large one that opens from each.

import { byId, draw, longName, make, makeTable } from "./dom.js";
import { count, duration, fixed, percent, tick, ticks } from "./numbers.js";

export const CURVES = {
  loss: { words: "validation loss", format: (value) => fixed(value, 3), isBetter: (now, before) => now < before },
  token_accuracy: { words: "token accuracy", format: percent, isBetter: (now, before) => now > before },
};

export const AXES = {
  samples: { words: "samples", format: count },
  step: { words: "step", format: count },
  wall_s: { words: "training time", format: duration },
};

const SMALL = { width: 220, height: 84, left: 4, right: 6, top: 8, bottom: 6 };
export const LARGE = { width: 860, height: 380, left: 58, right: 18, top: 14, bottom: 44 };

/**
 * One dataset's values, ready to draw.
 * @typedef {{name: string, points: {x: number, y: number, step: number}[], entered: number|null, weight: number|null,
 *   stage: number|null}} Series `entered`: where it came into the pool, null when never; `weight`: its share now.
 */

/** The picture of a series: a line, dashed until the dataset enters the pool, and the borders of stages. */
export function chart(series, frame, size, label = null) {
  const { width, height, left, right, top, bottom } = size;
  const x = (value) => left + ((value - frame.left) / (frame.right - frame.left || 1)) * (width - left - right);
  const y = (value) =>
    height - bottom - ((value - frame.low) / (frame.high - frame.low || 1)) * (height - top - bottom);
  const line = (points) =>
    points.map((point, i) => `${i ? "L" : "M"}${x(point.x).toFixed(1)},${y(point.y).toFixed(1)}`).join("");
  const entered = series.entered ?? Infinity;
  const before = series.points.filter((point) => point.x <= entered);
  const after = series.points.filter((point) => point.x >= entered);
  const last = series.points.at(-1);
  return draw(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: label ? "img" : null,
      "aria-label": label,
      "aria-hidden": label ? null : "true",
    },
    size === LARGE ? axes(frame, x, y, size) : null,
    frame.borders.map((border) =>
      draw("line", { x1: x(border), x2: x(border), y1: top - 4, y2: height - bottom, class: "border" }),
    ),
    draw("path", { d: line(before), class: "line waiting" }),
    draw("path", { d: line(after), class: "line" }),
    last ? draw("circle", { cx: x(last.x), cy: y(last.y), r: size === LARGE ? 4.5 : 3, class: "last" }) : null,
  );
}

export function axes(frame, x, y, { width, height, left, right, bottom, top }) {
  return draw(
    "g",
    { class: "axes" },
    ticks(frame.low, frame.high, 5).map((value) => [
      draw("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "gridline" }),
      draw(
        "text",
        { x: left - 8, y: y(value) + 4, "text-anchor": "end" },
        frame.curve === "loss" ? tick(value) : percent(value),
      ),
    ]),
    ticks(frame.left, frame.right, 6).map((value) =>
      draw("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, AXES[frame.axis].format(value)),
    ),
    draw(
      "text",
      { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", class: "quiet" },
      AXES[frame.axis].words,
    ),
    draw("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }),
    draw("line", { x1: left, x2: left, y1: top, y2: height - bottom, class: "axis" }),
  );
}

/** The limits of a chart: those of the run along, and of these series up. */
export function frameOf(all, along, curve, axis, borders) {
  const values = all.flatMap((series) => series.points.map((point) => point.y));
  const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.5;
  return { left: along[0], right: along[1], low: low - margin, high: high + margin, curve, axis, borders };
}

/** The card of one dataset. It is made once, and filled again when there is news. */
export function makePanel(name, open) {
  const parts = {
    picture: make("span", { class: "picture" }),
    now: make("span", { class: "now" }),
    foot: make("span", { class: "foot quiet" }),
  };
  const element = make(
    "button",
    { type: "button", class: "panel", tabindex: -1, onclick: () => open(name) },
    make("span", { class: "panel-head" }, longName(name), parts.now),
    parts.picture,
    parts.foot,
  );
  return { element, name, ...parts, drawn: "" };
}

export function fillPanel(panel, series, frame) {
  const { format, words, isBetter } = CURVES[frame.curve];
  const [first, last] = [series.points[0], series.points.at(-1)];
  const isWaiting = series.entered === null;
  const state = isWaiting ? "not in the pool yet" : series.weight === null ? "" : `share ${percent(series.weight)}`;
  const change = first && last !== first ? `from ${format(first.y)}` : "";
  panel.now.textContent = last ? format(last.y) : "–";
  panel.now.classList.toggle("worse", Boolean(first && last !== first && isBetter(first.y, last.y)));
  panel.foot.replaceChildren(make("span", {}, change), make("span", {}, state));
  panel.element.classList.toggle("waiting", isWaiting);
  panel.element.setAttribute(
    "aria-label",
    last
      ? `${series.name}: ${words} ${format(last.y)} at step ${count(last.step)}, ${format(first.y)} at first${state ? `, ${state}` : ""}. Opens a large chart.`
      : `${series.name}: no ${words} yet`,
  );
  panel.picture.replaceChildren(chart(series, frame, SMALL));
}

/** The large chart of one dataset with all its numbers. */
export function openLarge(series, frame, evals) {
  byId("curve-name").textContent = series.name;
  fillLarge(series, frame, evals);
  byId("curve-dialog").showModal();
}

export function fillLarge(series, frame, evals) {
  const own = frameOf([series], [frame.left, frame.right], frame.curve, frame.axis, frame.borders);
  const last = series.points.at(-1);
  byId("curve-large").replaceChildren(
    chart(
      series,
      own,
      LARGE,
      `${CURVES[frame.curve].words} of ${series.name}${last ? `, now ${CURVES[frame.curve].format(last.y)}` : ""}`,
    ),
  );
  const columns = [
    { words: "Step" },
    { words: "Samples", class: "number" },
    { words: "Training time", class: "number" },
    { words: "Stage", class: "number" },
    { words: "Loss", class: "number" },
    { words: "Token accuracy", class: "number" },
  ];
  byId("curve-table").replaceChildren(
    makeTable(
      `All evaluations of ${series.name}`,
      columns,
      evals
        .map((point) => [
          count(point.step),
          count(point.samples),
          duration(point.wall_s),
          point.stage === null ? "–" : String(point.stage),
          fixed(point.loss, 4),
          point.token_accuracy === null ? "–" : `${fixed(point.token_accuracy * 100, 1)} %`,
        ])
        .reverse(),
    ),
  );
}
