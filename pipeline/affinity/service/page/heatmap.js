// A heatmap with a cell cursor (mouse, touch, arrow keys), zoom and panning. What it shows is a `scene`:
//   names, boxes [{number, start, size}], matrix (lower triangle), scale, dendrogram (or null),
//   short(value): text for a cell; describe(row, column): lines about a cell, the first one names it;
//   isUnclear(row, column): whether the cell's sign is not known (optional); diagonal: whether it has values.

import { onWidth } from "./canvas.js";
import { announce, make } from "./dom.js";
import { cellImage, drawHeatmap, measure } from "./heatmap-drawing.js";
import { onTheme } from "./theme.js";

const SMALLEST_WINDOW = 6;
const FEW = 24; // datasets that need no zoom
const ZOOM = 1.6;
const TALLEST_SHARE = 0.92; // of the window's height
const KEYS =
  "Arrow keys move from cell to cell, Page Up and Page Down from group to group, Home and End along a row, " +
  "plus and minus zoom, 0 shows everything.";

export class Heatmap {
  /** `onCell(row, column)` is called when another cell is chosen, or shown with `mark`; with (null, null) for none. */
  constructor(container, label, onCell = () => {}) {
    this.onCell = onCell;
    this.scene = null;
    this.cursor = null;
    this.canvas = make("canvas", { tabindex: 0, role: "application", "aria-label": `${label}. ${KEYS}` });
    this.tip = make("div", { class: "tip", "aria-hidden": "true", hidden: true });
    this.zoomed = make("span", { class: "quiet" });
    const button = (words, title, factor) =>
      make("button", { type: "button", "aria-label": title, title, onclick: () => this.zoom(factor) }, words);
    this.tools = make(
      "div",
      { class: "zoom", role: "group", "aria-label": "Zoom" },
      button("−", "Show more cells", 1 / ZOOM),
      button("+", "Enlarge", ZOOM),
      button("All", "Show all cells", 0),
      this.zoomed,
    );
    this.frame = make("div", { class: "heatmap" }, this.canvas, this.tip);
    container.replaceChildren(this.tools, this.frame);
    this.listen();
    onWidth(this.frame, () => this.redraw());
    onTheme(() => this.repaint());
  }

  show(scene) {
    const isOther = !this.scene || this.scene.names.join("\n") !== scene.names.join("\n");
    this.scene = scene;
    if (isOther) {
      this.cursor = null;
      this.view = { row: 0, column: 0, count: scene.names.length };
      this.onCell(null, null);
    } else if (this.cursor) {
      this.onCell(this.cursor.row, this.cursor.column);
    }
    this.tools.hidden = scene.names.length <= FEW;
    this.hideTip();
    this.repaint();
  }

  repaint() {
    if (!this.scene) return;
    this.image = cellImage(this.scene);
    this.redraw();
  }

  redraw() {
    if (!this.scene || this.frame.clientWidth === 0) return;
    this.place = measure(this.scene, this.view, this.frame.clientWidth, window.innerHeight * TALLEST_SHARE);
    drawHeatmap(this.canvas, this.image, this.scene, this.view, this.place, this.cursor);
    const { left, top, cell } = this.place;
    this.canvas.dataset.cells = [left, top, cell, this.view.row, this.view.column, this.view.count].join(" ");
    const n = this.scene.names.length;
    this.canvas.classList.toggle("zoomed", this.view.count < n);
    this.zoomed.textContent = this.view.count < n ? `${this.view.count} of ${n} rows; drag to move` : "";
  }

  /** Choose a cell; the window follows it. */
  choose(row, column, { say = false, point = true } = {}) {
    const last = this.scene.names.length - 1;
    this.cursor = { row: Math.min(Math.max(row, 0), last), column: Math.min(Math.max(column, 0), last) };
    this.follow("row");
    this.follow("column");
    this.redraw();
    if (point) this.showTip();
    if (say) announce(this.scene.describe(this.cursor.row, this.cursor.column).join(". "));
    this.onCell(this.cursor.row, this.cursor.column);
  }

  /** Show a cell that was chosen in another heatmap. */
  mark(row, column) {
    this.cursor = row === null ? null : { row, column };
    if (this.cursor) {
      this.follow("row");
      this.follow("column");
    }
    this.redraw();
  }

  follow(side) {
    const [first, at, { count }] = [this.view[side], this.cursor[side], this.view];
    if (at < first) this.view[side] = at;
    else if (at >= first + count) this.view[side] = at - count + 1;
  }

  /** Enlarge by `factor` around the chosen cell (or the middle); 0 shows everything. */
  zoom(factor, around = this.cursor) {
    const n = this.scene.names.length;
    const old = this.view;
    const count =
      factor === 0 ? n : Math.min(n, Math.max(Math.min(SMALLEST_WINDOW, n), Math.round(old.count / factor)));
    const first = (side) => {
      const at = around ? around[side] + 0.5 : old[side] + old.count / 2;
      const share = Math.min(Math.max((at - old[side]) / old.count, 0), 1);
      return Math.min(Math.max(Math.round(at - share * count), 0), n - count);
    };
    this.view = { row: first("row"), column: first("column"), count };
    this.redraw();
    if (this.cursor && !this.tip.hidden) this.showTip();
    announce(count === n ? "All cells shown" : `${count} of ${n} rows shown`);
  }

  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const { left, top, side, cell } = this.place;
    const [x, y] = [event.clientX - box.left - left, event.clientY - box.top - top];
    if (x < 0 || y < 0 || x >= side || y >= side) return null;
    return { row: this.view.row + Math.floor(y / cell), column: this.view.column + Math.floor(x / cell) };
  }

  showTip() {
    const { row, column } = this.cursor;
    const [title, ...lines] = this.scene.describe(row, column);
    this.tip.replaceChildren(make("strong", {}, title), ...lines.map((line) => make("span", {}, line)));
    this.tip.hidden = false;
    const { left, top, cell } = this.place;
    const x = left + (column - this.view.column + 1) * cell + 8;
    const y = top + (row - this.view.row + 1) * cell + 8;
    const [width, height] = [this.tip.offsetWidth, this.tip.offsetHeight];
    const room = this.frame.clientWidth;
    const before = x - cell - 16 - width;
    this.tip.style.left = `${x + width <= room ? x : Math.max(before, Math.min(x, room - width), 0)}px`;
    this.tip.style.top = `${y + height <= this.place.height ? y : Math.max(0, y - cell - 16 - height)}px`;
  }

  hideTip() {
    this.tip.hidden = true;
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => (this.drag ? this.pan(event) : this.hover(event)));
    canvas.addEventListener("pointerleave", () => !this.drag && this.hideTip());
    canvas.addEventListener("pointerdown", (event) => {
      this.drag = { x: event.clientX, y: event.clientY, ...this.view };
      canvas.setPointerCapture(event.pointerId);
    });
    for (const kind of ["pointerup", "pointercancel"])
      canvas.addEventListener(kind, () => {
        this.drag = null;
      });
    canvas.addEventListener("click", (event) => this.hover(event));
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        this.zoom(event.deltaY < 0 ? ZOOM : 1 / ZOOM, this.cellAt(event) ?? undefined);
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => {
      if (canvas.matches(":focus-visible") && this.scene)
        this.choose(this.cursor?.row ?? 0, this.cursor?.column ?? 0, { say: true });
    });
    canvas.addEventListener("blur", () => this.hideTip());
  }

  hover(event) {
    const cell = this.scene && this.cellAt(event);
    if (!cell) this.hideTip();
    else if (this.tip.hidden || cell.row !== this.cursor?.row || cell.column !== this.cursor?.column)
      this.choose(cell.row, cell.column);
  }

  pan(event) {
    const { count } = this.view;
    const limit = this.scene.names.length - count;
    if (limit === 0) return;
    const moved = (pixels) => Math.round(pixels / this.place.cell);
    const row = Math.min(Math.max(this.drag.row - moved(event.clientY - this.drag.y), 0), limit);
    const column = Math.min(Math.max(this.drag.column - moved(event.clientX - this.drag.x), 0), limit);
    this.hideTip();
    this.view = { row, column, count };
    this.redraw();
  }

  key(event) {
    if (!this.scene || event.altKey || event.metaKey) return;
    const { row, column } = this.cursor ?? { row: 0, column: 0 };
    const last = this.scene.names.length - 1;
    const cells = {
      ArrowRight: [row, column + 1],
      ArrowLeft: [row, column - 1],
      ArrowDown: [row + 1, column],
      ArrowUp: [row - 1, column],
      Home: [event.ctrlKey ? 0 : row, 0],
      End: [event.ctrlKey ? last : row, last],
      PageDown: [this.otherGroup(row, 1), column],
      PageUp: [this.otherGroup(row, -1), column],
    };
    const zooms = { "+": ZOOM, "=": ZOOM, "-": 1 / ZOOM, 0: 0 };
    if (event.key in cells) this.choose(...cells[event.key], { say: true });
    else if (event.key in zooms && !event.ctrlKey) this.zoom(zooms[event.key]);
    else if (event.key === "Escape") this.hideTip();
    else return;
    event.preventDefault();
  }

  /** The first row of the next group, or of this or the previous one. */
  otherGroup(row, direction) {
    const starts = this.scene.boxes.map((box) => box.start);
    if (direction > 0) return starts.find((start) => start > row) ?? row;
    return starts.filter((start) => start < row).at(-1) ?? 0;
  }
}
