// The scale of colours under a heatmap, with its numbers and what the other colours mean.

import { draw, make } from "./dom.js";
import { number, tick, ticks } from "./numbers.js";
import { css } from "./palette.js";
import { onTheme } from "./theme.js";

const WIDTH = 320;
const STEPS = 80;
let legends = [];

onTheme(() => {
  legends = legends.filter(({ container }) => container.isConnected);
  for (const { container, options } of legends) paint(container, options);
});

/**
 * @param {object} options scale (low, high, rgb; isCutLow, isCutHigh: whether there are values beyond its ends);
 *   title; low, high: words for the ends; format of numbers; notes: [[class of a swatch, words]].
 */
export function showLegend(container, options) {
  legends = legends.filter((legend) => legend.container !== container);
  legends.push({ container, options });
  paint(container, options);
}

function paint(container, { scale, title, low, high, format = tick, notes = [] }) {
  const x = (value) => ((value - scale.low) / (scale.high - scale.low || 1)) * WIDTH;
  const bar = draw("svg", {
    class: "scale",
    viewBox: `-22 0 ${WIDTH + 44} 34`,
    role: "img",
    "aria-label": `${title}: colours from ${number(scale.low)} (${low}) to ${number(scale.high)} (${high})`,
  });
  for (let i = 0; i < STEPS; i += 1) {
    const value = scale.low + ((i + 0.5) / STEPS) * (scale.high - scale.low);
    bar.append(
      draw("rect", {
        x: (i * WIDTH) / STEPS,
        y: 0,
        width: WIDTH / STEPS + 0.6,
        height: 12,
        fill: css(scale.rgb(value)),
      }),
    );
  }
  const tiny = 1e-9 * (scale.high - scale.low);
  for (const value of ticks(scale.low, scale.high)) {
    const isFirst = Math.abs(value - scale.low) < tiny && scale.isCutLow;
    const isLast = Math.abs(value - scale.high) < tiny && scale.isCutHigh;
    bar.append(
      draw("line", { x1: x(value), x2: x(value), y1: 12, y2: 16, class: "tick" }),
      draw(
        "text",
        { x: x(value), y: 29, "text-anchor": "middle" },
        `${isFirst ? "≤ " : isLast ? "≥ " : ""}${format(value)}`,
      ),
    );
  }
  container.className = "legend";
  container.replaceChildren(
    make(
      "div",
      { class: "legend-scale" },
      make("p", {}, title),
      bar,
      make("p", { class: "ends" }, make("span", {}, `← ${low}`), make("span", {}, `${high} →`)),
    ),
    make(
      "ul",
      {},
      notes.map(([mark, words]) => make("li", {}, make("span", { class: `swatch ${mark}` }), words)),
    ),
  );
}
