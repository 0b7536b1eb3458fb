// The similarity map: one mark a dataset, the like ones near each other.

import { onWidth, shorten } from "./canvas.js";
import { announce, byId, draw, make, makeTable, roveFocus } from "./dom.js";
import { placeLabels } from "./labels.js";
import { NOISE_SCALE_MEANING, aboutDataset } from "./measures.js";
import { count, number, percent } from "./numbers.js";
import { groupBadge, groupName, groupShape } from "./palette.js";
import { onView } from "./versions.js";

const MARGIN = 34;
const LABEL_FONT = "12px system-ui, sans-serif";
const LONGEST_NAME = 150; // pixels
const ZOOM = 1.5;

let view = null;
let hidden = new Set(); // numbers of groups that are not shown
let zoom = { factor: 1, x: 0.5, y: 0.5 }; // the middle of the window, as shares of the whole map
let picture = null;
let tip = null;

export function startMap() {
  picture = draw("svg", {
    class: "map",
    role: "group",
    "aria-label": "Map of the datasets. Arrow keys move from one to the next.",
  });
  tip = make("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const tool = (words, title, factor) =>
    make("button", { type: "button", "aria-label": title, title, onclick: () => setZoom(factor) }, words);
  byId("map").replaceChildren(
    make(
      "div",
      { class: "zoom", role: "group", "aria-label": "Zoom" },
      tool("−", "Show more", 1 / ZOOM),
      tool("+", "Enlarge", ZOOM),
      tool("All", "Show the whole map", 0),
      make("span", { class: "quiet", id: "map-note" }),
    ),
    make("div", { class: "map-frame" }, picture, tip),
  );
  roveFocus(byId("map"), ".point");
  listen();
  onWidth(byId("map"), redraw);
  byId("map-find").addEventListener("input", redraw);
  onView((next) => {
    if (next.id !== view?.id) [hidden, zoom] = [new Set(), { factor: 1, x: 0.5, y: 0.5 }];
    view = next;
    byId("map-share").textContent =
      `Two dimensions show ${percent(view.map.share)} of the variance between them` +
      (view.map.share > 0.99 ? "." : ", so some pairs are further apart than they look.");
    showGroups();
    showTable();
    redraw();
  });
}

function showGroups() {
  byId("map-groups").replaceChildren(
    ...view.group_sizes.map((size, group) => {
      const box = make("input", { type: "checkbox", onchange: () => toggle(group, box.checked) });
      box.checked = !hidden.has(group);
      return make("label", {}, box, groupBadge(group), ` ${size}`);
    }),
  );
}

function toggle(group, isShown) {
  if (isShown) hidden.delete(group);
  else hidden.add(group);
  redraw();
}

function setZoom(factor, middle) {
  zoom =
    factor === 0
      ? { factor: 1, x: 0.5, y: 0.5 }
      : { ...zoom, ...middle, factor: Math.min(Math.max(zoom.factor * factor, 1), 20) };
  redraw();
}

/** From coordinates of the map to pixels, the same scale on both axes. */
function projection(width, height) {
  const { x, y } = view.map;
  const middle = (values) => (Math.min(...values) + Math.max(...values)) / 2;
  const spread = (values) => Math.max(...values) - Math.min(...values);
  const unit =
    Math.min((width - 2 * MARGIN - 60) / (spread(x) || 1), (height - 2 * MARGIN) / (spread(y) || 1)) * zoom.factor;
  const [atX, atY] = [middle(x) + (zoom.x - 0.5) * (spread(x) || 1), middle(y) + (zoom.y - 0.5) * (spread(y) || 1)];
  return {
    at: (mapX, mapY) => [width / 2 + (mapX - atX) * unit, height / 2 - (mapY - atY) * unit],
    /** A way in pixels as shares of the whole map. */
    shares: (px, py) => [px / unit / (spread(x) || 1), -py / unit / (spread(y) || 1)],
  };
}

function redraw() {
  const width = byId("map").clientWidth;
  if (!view || width === 0) return;
  const height = Math.round(Math.min(Math.max(width * 0.62, 320), window.innerHeight * 0.8));
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("height", height);
  picture.classList.toggle("zoomed", zoom.factor > 1);
  const points = pointsIn(width, height);
  const labels = placeLabels(points, width, height);
  const focused = document.activeElement?.closest?.(".point")?.dataset.name;
  tip.hidden = true;
  picture.replaceChildren(
    grid(width, height),
    ...[...labels].map(([point, place]) => leader(point, place)),
    ...points.map((point) => mark(point)),
    ...[...labels].map(([point, place]) =>
      draw(
        "text",
        {
          x: place.x,
          y: place.y + 4,
          "text-anchor": place.anchor,
          class: point.isFound ? "point-name found" : "point-name",
        },
        point.text,
      ),
    ),
  );
  const first = picture.querySelector(".point");
  if (first) first.setAttribute("tabindex", 0);
  if (focused) [...picture.querySelectorAll(".point")].find((point) => point.dataset.name === focused)?.focus();
  const left = points.length - labels.size;
  byId("map-note").textContent = left
    ? `${count(left)} of ${count(points.length)} names left out; enlarge, or point at a mark`
    : "";
}

function pointsIn(width, height) {
  const { at } = projection(width, height);
  const wanted = byId("map-find").value.trim().toLowerCase();
  const context = document.createElement("canvas").getContext("2d");
  context.font = LABEL_FONT;
  const radius = view.datasets.length > 60 || width < 500 ? 5 : 6.5;
  return view.datasets
    .map((dataset, i) => {
      const [x, y] = at(view.map.x[i], view.map.y[i]);
      const text = shorten(context, dataset.name, LONGEST_NAME);
      const isFound = wanted !== "" && dataset.name.toLowerCase().includes(wanted);
      return {
        dataset,
        x,
        y,
        text,
        isFound,
        isDim: wanted !== "" && !isFound,
        radius: isFound ? radius * 1.4 : radius,
        width: context.measureText(text).width + 4,
        rank: isFound ? -1 : i % 7,
      };
    })
    .filter(({ dataset, x, y }) => !hidden.has(dataset.group) && x > 4 && y > 4 && x < width - 4 && y < height - 4);
}

/** The line from a point to its name, where that is not next to it. */
function leader({ x, y }, { leader: end }) {
  return end ? draw("line", { class: "leader", x1: x, y1: y, x2: end[0], y2: end[1] }) : "";
}

function mark(point) {
  const { dataset, x, y, radius } = point;
  return draw("path", {
    d: groupShape(dataset.group),
    transform: `translate(${x} ${y}) scale(${radius})`,
    class: `point group-${dataset.group % 8}${point.isDim ? " dim" : ""}`,
    tabindex: -1,
    role: "img",
    "aria-label": describe(dataset).join(", "),
    "data-name": dataset.name,
    onpointerenter: () => showTip(point),
    onpointerleave: () => {
      tip.hidden = true;
    },
    onfocus: () => {
      showTip(point);
      announce(describe(dataset).join(", "));
    },
    onblur: () => {
      tip.hidden = true;
    },
  });
}

const describe = (dataset) => [dataset.name, `group ${groupName(dataset.group)}`, ...aboutDataset(dataset)];

function showTip({ dataset, x, y }) {
  const [title, ...lines] = describe(dataset);
  tip.replaceChildren(make("strong", {}, title), ...lines.map((line) => make("span", {}, line)));
  tip.hidden = false;
  tip.style.left = `${Math.max(0, Math.min(x + 12, byId("map").clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${y + 12}px`;
}

/** Lines through the middle of the map: 0 on both axes. */
function grid(width, height) {
  const [zeroX, zeroY] = projection(width, height).at(0, 0);
  return draw(
    "g",
    { class: "grid" },
    draw("line", { x1: zeroX, x2: zeroX, y1: 0, y2: height }),
    draw("line", { x1: 0, x2: width, y1: zeroY, y2: zeroY }),
  );
}

function listen() {
  let drag = null;
  picture.addEventListener("pointerdown", (event) => {
    drag = zoom.factor > 1 ? { x: event.clientX, y: event.clientY, zoom } : null;
  });
  picture.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const { width, height } = picture.getBoundingClientRect();
    const [x, y] = projection(width, height).shares(event.clientX - drag.x, event.clientY - drag.y);
    zoom = { ...zoom, x: drag.zoom.x - x, y: drag.zoom.y - y };
    requestAnimationFrame(redraw);
  });
  for (const kind of ["pointerup", "pointerleave", "pointercancel"])
    picture.addEventListener(kind, () => {
      drag = null;
    });
  picture.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      setZoom(event.deltaY < 0 ? ZOOM : 1 / ZOOM);
    },
    { passive: false },
  );
  picture.addEventListener("keydown", (event) => {
    const factors = { "+": ZOOM, "=": ZOOM, "-": 1 / ZOOM, 0: 0 };
    if (event.key in factors) setZoom(factors[event.key], focusedPlace());
  });
}

/** The middle of an enlarged map is the focused dataset. */
function focusedPlace() {
  const i = view.datasets.findIndex((dataset) => dataset.name === document.activeElement?.dataset?.name);
  if (i < 0) return {};
  const share = (values) => (values[i] - Math.min(...values)) / (Math.max(...values) - Math.min(...values) || 1);
  return { x: share(view.map.x), y: share(view.map.y) };
}

function showTable() {
  const columns = [
    { words: "Dataset" },
    { words: "Group" },
    { words: "Noise scale", class: "number" },
    { words: "Gradient norm", class: "number" },
    { words: "Across", class: "number" },
    { words: "Up", class: "number" },
  ];
  byId("map-table").replaceChildren(
    makeTable(
      "Datasets with their place on the map",
      columns,
      view.datasets.map((dataset, i) => [
        dataset.name,
        groupBadge(dataset.group),
        number(dataset.noise_scale),
        number(dataset.norm),
        number(view.map.x[i]),
        number(view.map.y[i]),
      ]),
    ),
    make("p", { class: "quiet" }, NOISE_SCALE_MEANING),
  );
}
