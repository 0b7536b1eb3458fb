// Colours and shapes. Groups: Okabe and Ito's colours (page.css, --group-0 ...), always with a shape of their own.
// Values: scales whose lightness only rises or only falls, so they also work without colour.

import { colour, isDark } from "./theme.js";
import { draw, make } from "./dom.js";

const GROUP_COLOURS = 8;

// Outlines in a square from -1 to 1.
const SHAPES = [
  "M-0.9,0a0.9,0.9 0 1,0 1.8,0a0.9,0.9 0 1,0 -1.8,0z", // circle
  "M-0.8,-0.8h1.6v1.6h-1.6z", // square
  "M0,-1L1,0.8H-1z", // triangle
  "M0,-1.1L1.1,0L0,1.1L-1.1,0z", // diamond
  "M0,1L-1,-0.8H1z", // triangle, point down
  "M-0.35,-1h0.7v0.65h0.65v0.7h-0.65v0.65h-0.7v-0.65h-0.65v-0.7h0.65z", // plus
  "M0,-1.1L0.3,-0.35L1.1,-0.3L0.48,0.2L0.7,1L0,0.55L-0.7,1L-0.48,0.2L-1.1,-0.3L-0.3,-0.35z", // star
  "M-0.55,-0.95h1.1l0.55,0.95l-0.55,0.95h-1.1l-0.55,-0.95z", // hexagon
  "M-1,-0.5h2v1h-2z", // bar
];

const NEAR_FAR = {
  light: ["#081d58", "#1f3f93", "#225da8", "#1d86bb", "#40b0c4", "#7dc8c2", "#b9dfd0", "#dcedea", "#f1f6f6"],
  dark: ["#fbf6c3", "#d3e6a0", "#93d19b", "#50b5a0", "#2f93a3", "#266f94", "#23507a", "#203758", "#1c2534"],
};
const DIVERGING = {
  light: [
    "#7f3b08",
    "#b35806",
    "#df8a32",
    "#f6bd7b",
    "#f7e3c8",
    "#f4f5f6",
    "#d3e4ef",
    "#93c3de",
    "#4593c5",
    "#2166ac",
    "#08306b",
  ],
  dark: [
    "#ffd9ab",
    "#f7ad5d",
    "#c77a2d",
    "#8a5526",
    "#503923",
    "#262b32",
    "#22405c",
    "#2a648f",
    "#3c8cc4",
    "#7bbdf0",
    "#cbe6ff",
  ],
};

const darkOrLight = () => (isDark() ? "dark" : "light");

export const groupColour = (number) => colour(`group-${number % GROUP_COLOURS}`);

// 8 colours and 9 shapes have no common divisor: 72 groups differ from each other.
export const groupShape = (number) => SHAPES[number % SHAPES.length];

export const groupName = (number) => `G${number + 1}`;

/** The mark of a group: its shape in its colour. */
export function groupMark(number, size = 12) {
  return draw(
    "svg",
    { class: "mark", viewBox: "-1.2 -1.2 2.4 2.4", width: size, height: size, "aria-hidden": "true" },
    draw("path", { d: groupShape(number), class: `group-${number % GROUP_COLOURS}` }),
  );
}

export const groupBadge = (number) => make("span", { class: "badge" }, groupMark(number), groupName(number));

/** A value's place from 0 to 1 turned into [red, green, blue]. */
function colourAt(stops, place) {
  const at = Math.min(Math.max(place, 0), 1) * (stops.length - 1);
  const [from, to] = [stops[Math.floor(at)], stops[Math.ceil(at)]];
  return [1, 3, 5].map((i) => {
    const [a, b] = [parseInt(from.slice(i, i + 2), 16), parseInt(to.slice(i, i + 2), 16)];
    return Math.round(a + (b - a) * (at - Math.floor(at)));
  });
}

/** A scale from `low` to `high`: `strong` says which end stands out. Its `rgb` follows the theme. */
export function sequentialScale(low, high, strong = "low") {
  const span = high - low || 1;
  const place = (value) => (strong === "low" ? (value - low) / span : 1 - (value - low) / span);
  return { low, high, rgb: (value) => colourAt(NEAR_FAR[darkOrLight()], place(value)) };
}

/** A scale from -reach to reach whose middle is plain. */
export function divergingScale(reach) {
  const size = reach || 1;
  return { low: -size, high: size, rgb: (value) => colourAt(DIVERGING[darkOrLight()], 0.5 + value / (2 * size)) };
}

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** Black or white, whichever can be read on this colour. */
export function inkOn([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#111418" : "#ffffff";
}
