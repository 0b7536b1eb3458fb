// Drawing a heatmap: the cells that the window shows, and around them dendrogram, groups and names.

import { sharpContext, shorten } from "./canvas.js";
import { css, groupColour, groupName, inkOn } from "./palette.js";
import { colour } from "./theme.js";
import { at } from "./triangle.js";

const FONT = "12px system-ui, sans-serif";
const SMALL = "11px system-ui, sans-serif";
const STRIP = 14; // of group colours beside the cells
const DENDROGRAM = 62;
const LARGEST_CELL = 58;
const SMALLEST_NAMED_CELL = 10;
const SMALLEST_CELL_WITH_LINES = 9;
const SMALLEST_CELL_WITH_NUMBER = 34;
const SMALLEST_CELL_WITH_DOT = 6;

/** A picture of one pixel a cell, [D x D]; drawn again only when values or colours change. */
export function cellImage(scene) {
  const n = scene.names.length;
  const canvas = document.createElement("canvas");
  canvas.width = n;
  canvas.height = n;
  const context = canvas.getContext("2d");
  const image = context.createImageData(n, n);
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < n; j += 1) image.data.set(cellColour(scene, i, j), 4 * (i * n + j));
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Red, green, blue, opacity. What is not defined lets the hatching below it through. */
function cellColour(scene, i, j) {
  if (i === j && !scene.diagonal) return [0, 0, 0, 0];
  const value = at(scene.matrix, i, j);
  return value === null ? [0, 0, 0, 0] : [...scene.scale.rgb(value), 255];
}

/** Where everything goes, in CSS pixels, when `view.count` rows and columns are shown in a picture `width` wide. */
export function measure(scene, view, width, tallest) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `bold ${FONT}`;
  const longest = Math.max(...scene.names.map((name) => context.measureText(name).width)) + 8;
  const wide = width > 560;
  const top = (scene.dendrogram ? DENDROGRAM : 0) + STRIP + 2;
  const names = Math.min(longest, Math.max(width * (wide ? 0.3 : 0.34), 60));
  const under = wide ? Math.min(longest, 120) : 0;
  const side = (left, below) =>
    Math.min(width - left - 2, Math.max(tallest - top - below, 200), view.count * LARGEST_CELL);
  const isNamed = side(names + STRIP, under) / view.count >= SMALLEST_NAMED_CELL;
  const left = STRIP + 2 + (isNamed ? names : 0);
  const plot = side(left, isNamed ? under : 0);
  return {
    left,
    top,
    side: plot,
    cell: plot / view.count,
    isNamed,
    names,
    under: isNamed ? under : 0,
    width: Math.min(width, left + plot + 2),
    height: top + plot + (isNamed ? under : 0) + 2,
  };
}

/** Draw the scene: `view` {row, column, count} is what is shown of it, `cursor` {row, column} the chosen cell. */
export function drawHeatmap(canvas, image, scene, view, place, cursor) {
  const context = sharpContext(canvas, place.width, place.height);
  const shown = { context, scene, view, place, cursor };
  if (scene.dendrogram) drawDendrogram(shown);
  drawStrips(shown);
  drawGround(shown);
  context.imageSmoothingEnabled = place.cell < 1;
  context.drawImage(
    image,
    view.column,
    view.row,
    view.count,
    view.count,
    place.left,
    place.top,
    place.side,
    place.side,
  );
  if (place.cell >= SMALLEST_CELL_WITH_LINES) drawLines(shown);
  if (place.cell >= SMALLEST_CELL_WITH_DOT) drawCells(shown);
  drawBoxes(shown);
  if (place.isNamed) drawNames(shown);
  if (cursor) drawCursor(shown);
}

const toX = ({ view, place }, column) => place.left + (column - view.column) * place.cell;
const toY = ({ view, place }, row) => place.top + (row - view.row) * place.cell;

function clipped({ context }, x, y, width, height, paint) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  paint();
  context.restore();
}

function drawDendrogram(shown) {
  const { context, scene, place } = shown;
  const tallest = Math.max(...scene.dendrogram.map((merge) => merge[4])) || 1;
  const y = (height) => DENDROGRAM - 3 - (height / tallest) * (DENDROGRAM - 8);
  clipped(shown, place.left, 0, place.side, DENDROGRAM, () => {
    context.lineWidth = place.cell < 5 ? 0.75 : 1.25;
    for (const [left, leftHeight, right, rightHeight, height, group] of scene.dendrogram) {
      context.strokeStyle = group === null ? colour("quiet") : groupColour(group);
      context.beginPath();
      context.moveTo(toX(shown, left + 0.5), y(leftHeight));
      context.lineTo(toX(shown, left + 0.5), y(height));
      context.lineTo(toX(shown, right + 0.5), y(height));
      context.lineTo(toX(shown, right + 0.5), y(rightHeight));
      context.stroke();
    }
  });
}

/** The groups' colours along the top and the left of the cells, with their names where they fit. */
function drawStrips(shown) {
  const { context, scene, view, place } = shown;
  context.font = `bold ${SMALL}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const [x, y] = [place.left - STRIP - 1, place.top - STRIP - 1];
  const paint = (number, middleX, middleY, length, turn) => {
    if (length <= 0) return;
    context.save();
    context.translate(middleX, middleY);
    context.rotate(turn);
    context.fillStyle = groupColour(number);
    context.fillRect(-length / 2 + 0.5, -STRIP / 2, length - 1, STRIP);
    context.fillStyle = colour("on-group");
    if (length > 24) context.fillText(groupName(number), 0, 1);
    context.restore();
  };
  for (const { number, start, size } of scene.boxes) {
    // Only what the window shows of a group, so that its name is in the middle of that.
    const seen = (first) => [Math.max(start, first), Math.min(start + size, first + view.count)];
    const [[left, right], [top, bottom]] = [seen(view.column), seen(view.row)];
    paint(number, toX(shown, (left + right) / 2), y + STRIP / 2, (right - left) * place.cell, 0);
    paint(number, x + STRIP / 2, toY(shown, (top + bottom) / 2), (bottom - top) * place.cell, -Math.PI / 2);
  }
}

/** What shows where there is no value: hatching, and plain along the diagonal. */
function drawGround({ context, scene, view, place }) {
  const tile = document.createElement("canvas");
  [tile.width, tile.height] = [6, 6];
  const strokes = tile.getContext("2d");
  strokes.fillStyle = colour("surface");
  strokes.fillRect(0, 0, 6, 6);
  strokes.strokeStyle = colour("undefined");
  for (const shift of [-6, 0, 6]) {
    strokes.moveTo(shift - 1, 7);
    strokes.lineTo(shift + 7, -1);
  }
  strokes.stroke();
  context.fillStyle = context.createPattern(tile, "repeat");
  context.fillRect(place.left, place.top, place.side, place.side);
  if (scene.diagonal) return;
  context.fillStyle = colour("diagonal");
  for (let i = Math.max(view.row, view.column); i < Math.min(view.row, view.column) + view.count; i += 1) {
    context.fillRect(
      place.left + (i - view.column) * place.cell,
      place.top + (i - view.row) * place.cell,
      place.cell,
      place.cell,
    );
  }
}

function drawLines({ context, view, place }) {
  context.strokeStyle = colour("surface");
  context.lineWidth = 1;
  context.beginPath();
  for (let i = 0; i <= view.count; i += 1) {
    const at = i * place.cell;
    context.moveTo(place.left + at, place.top);
    context.lineTo(place.left + at, place.top + place.side);
    context.moveTo(place.left, place.top + at);
    context.lineTo(place.left + place.side, place.top + at);
  }
  context.stroke();
}

/** Numbers where they fit, and a dot in each cell whose sign is not known. */
function drawCells(shown) {
  const { context, scene, view, place } = shown;
  context.font = place.cell > 44 ? FONT : SMALL;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = view.row; row < view.row + view.count; row += 1) {
    for (let column = view.column; column < view.column + view.count; column += 1) {
      const value = at(scene.matrix, row, column);
      if (value === null || (row === column && !scene.diagonal)) continue;
      const [x, y] = [toX(shown, column + 0.5), toY(shown, row + 0.5)];
      context.fillStyle = inkOn(scene.scale.rgb(value));
      if (place.cell >= SMALLEST_CELL_WITH_NUMBER) context.fillText(scene.short(value), x, y);
      if (scene.isUnclear?.(row, column)) {
        const radius = Math.min(Math.max(place.cell / 9, 1), 2.5);
        context.beginPath();
        context.arc(x, y + (place.cell >= SMALLEST_CELL_WITH_NUMBER ? place.cell * 0.32 : 0), radius, 0, 2 * Math.PI);
        context.fill();
      }
    }
  }
}

function drawBoxes(shown) {
  const { context, scene, place } = shown;
  clipped(shown, place.left - 2, place.top - 2, place.side + 4, place.side + 4, () => {
    for (const [style, width] of [
      [colour("box-halo"), 3.5],
      [colour("box"), 1.5],
    ]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      for (const { start, size } of scene.boxes) {
        context.strokeRect(toX(shown, start), toY(shown, start), size * place.cell, size * place.cell);
      }
    }
  });
}

function drawNames(shown) {
  const { context, scene, view, place, cursor } = shown;
  context.textBaseline = "middle";
  for (let i = 0; i < view.count; i += 1) {
    const name = (index, isChosen, room) => {
      context.font = `${isChosen ? "bold " : ""}${place.cell < 13 ? SMALL : FONT}`;
      context.fillStyle = colour(isChosen ? "ink" : "label");
      return shorten(context, scene.names[index], room);
    };
    context.textAlign = "right";
    const row = name(view.row + i, cursor?.row === view.row + i, place.names - 6);
    context.fillText(row, place.left - STRIP - 5, place.top + (i + 0.5) * place.cell);
    if (place.under === 0) continue;
    context.save();
    context.translate(place.left + (i + 0.5) * place.cell, place.top + place.side + 5);
    context.rotate(-Math.PI / 2);
    context.fillText(name(view.column + i, cursor?.column === view.column + i, place.under - 6), 0, 0);
    context.restore();
  }
}

function drawCursor(shown) {
  const { context, place, cursor } = shown;
  const [x, y] = [toX(shown, cursor.column), toY(shown, cursor.row)];
  const room = Math.max(place.cell, 5);
  const shift = (room - place.cell) / 2;
  context.lineWidth = 1;
  context.strokeStyle = colour("cursor");
  context.globalAlpha = 0.55;
  context.strokeRect(place.left, y, place.side, place.cell);
  context.strokeRect(x, place.top, place.cell, place.side);
  context.globalAlpha = 1;
  context.lineWidth = 4.5;
  context.strokeStyle = colour("surface");
  context.strokeRect(x - shift, y - shift, room, room);
  context.lineWidth = 2.5;
  context.strokeStyle = colour("cursor");
  context.strokeRect(x - shift, y - shift, room, room);
}
