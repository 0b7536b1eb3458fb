// All datasets in one chart: their mean, where the middle 80 % of them are, and the best and the worst.

import { CURVES, LARGE, axes, frameOf } from "./curves.js";
import { draw, make } from "./dom.js";
import { mean } from "./numbers.js";

const SIZE = { ...LARGE, height: 230 };

/** `shown`: the series of the datasets that the filter lets through. */
export function showOverview(container, shown, along, curve, axis, borders) {
  const steps = byPlace(shown);
  if (!steps.length) {
    container.replaceChildren(make("p", { class: "quiet" }, "Nothing to show yet."));
    return;
  }
  const frame = frameOf(shown, along, curve, axis, borders);
  const width = container.clientWidth || LARGE.width;
  const x = (value) =>
    SIZE.left + ((value - frame.left) / (frame.right - frame.left || 1)) * (width - SIZE.left - SIZE.right);
  const y = (value) =>
    SIZE.height -
    SIZE.bottom -
    ((value - frame.low) / (frame.high - frame.low || 1)) * (SIZE.height - SIZE.top - SIZE.bottom);
  const line = (key) => steps.map((step) => `${x(step.x).toFixed(1)},${y(step[key]).toFixed(1)}`);
  const last = steps.at(-1);
  const { words, format } = CURVES[curve];
  container.replaceChildren(
    draw(
      "svg",
      {
        class: "overview",
        viewBox: `0 0 ${width} ${SIZE.height}`,
        role: "img",
        "aria-label": `Mean ${words} ${format(last.mean)}; from ${format(last.least)} to ${format(last.most)} over the datasets`,
      },
      axes(frame, x, y, { ...SIZE, width }),
      borders.map((border) =>
        draw("line", { x1: x(border), x2: x(border), y1: SIZE.top, y2: SIZE.height - SIZE.bottom, class: "border" }),
      ),
      draw("polygon", { points: [...line("high"), ...line("low").reverse()].join(" "), class: "band" }),
      draw("polyline", { points: line("least").join(" "), class: "extreme" }),
      draw("polyline", { points: line("most").join(" "), class: "extreme" }),
      draw("polyline", { points: line("mean").join(" "), class: "line" }),
      draw("circle", { cx: x(last.x), cy: y(last.mean), r: 4, class: "last" }),
    ),
    make(
      "p",
      { class: "quiet" },
      `Line: mean ${words}; band: the middle 80 % of the datasets; dotted: the lowest and the highest.`,
    ),
  );
}

/** At every place along the axis: the mean and the quantiles of what was measured there. */
function byPlace(shown) {
  const places = new Map();
  for (const series of shown) {
    for (const point of series.points) {
      if (!places.has(point.x)) places.set(point.x, []);
      places.get(point.x).push(point.y);
    }
  }
  return [...places]
    .sort(([a], [b]) => a - b)
    .map(([x, values]) => {
      values.sort((a, b) => a - b);
      const quantile = (share) => values[Math.round(share * (values.length - 1))];
      return {
        x,
        mean: mean(values),
        least: values[0],
        most: values.at(-1),
        low: quantile(0.1),
        high: quantile(0.9),
      };
    });
}
