// Names beside the points of a map, none of them over another name or over a point.

const HEIGHT = 14;
const GAP = 3;
const BIN = 48; // pixels; only what lies in the same or a neighbouring bin can overlap
const LEADERS = [14, 22, 32]; // how far away a name may stand, with a line to its point
const DIRECTIONS = 16;

/**
 * Places for as many names as fit.
 *
 * @param points [{x, y, radius, text, width, rank}]: lower ranks choose first.
 * @returns a Map from point to {x, y, anchor, leader}; a point without an entry has no room for its name. `leader` is
 *   where a line to the name ends, null for a name next to its point.
 */
export function placeLabels(points, width, height) {
  const taken = new Bins();
  for (const { x, y, radius } of points)
    taken.add({ left: x - radius, right: x + radius, top: y - radius, bottom: y + radius });
  const placed = new Map();
  for (const point of [...points].sort((a, b) => a.rank - b.rank)) {
    const found = candidates(point).find(
      ({ box }) => box.left >= 0 && box.right <= width && box.top >= 0 && box.bottom <= height && !taken.overlaps(box),
    );
    if (!found) continue;
    taken.add(found.box);
    placed.set(point, found);
  }
  return placed;
}

/** Right, left, above, below, the corners, and then ever further away. */
function candidates({ x, y, radius, width }) {
  const away = radius + GAP;
  const at = (anchor, textX, middle, leader = null) => {
    const left = { start: textX, end: textX - width, middle: textX - width / 2 }[anchor];
    return {
      anchor,
      x: textX,
      y: middle,
      leader,
      box: { left, right: left + width, top: middle - HEIGHT / 2, bottom: middle + HEIGHT / 2 },
    };
  };
  const corner = away * 0.75;
  const near = [
    at("start", x + away, y),
    at("end", x - away, y),
    at("middle", x, y - away - HEIGHT / 2),
    at("middle", x, y + away + HEIGHT / 2),
    at("start", x + corner, y - corner - 4),
    at("start", x + corner, y + corner + 4),
    at("end", x - corner, y - corner - 4),
    at("end", x - corner, y + corner + 4),
  ];
  const far = LEADERS.flatMap((length) =>
    Array.from({ length: DIRECTIONS }, (_, i) => {
      const angle = (2 * Math.PI * i) / DIRECTIONS;
      const [endX, endY] = [x + length * Math.cos(angle), y + length * Math.sin(angle)];
      const anchor = Math.abs(Math.cos(angle)) < 0.2 ? "middle" : Math.cos(angle) > 0 ? "start" : "end";
      return at(anchor, endX, anchor === "middle" ? endY + Math.sign(Math.sin(angle)) * (HEIGHT / 2) : endY, [
        endX,
        endY,
      ]);
    }),
  );
  return [...near, ...far];
}

/** Boxes by the squares of the plane that they lie in. */
class Bins {
  constructor() {
    this.bins = new Map();
  }

  *squares({ left, right, top, bottom }) {
    for (let i = Math.floor(left / BIN); i <= Math.floor(right / BIN); i += 1) {
      for (let j = Math.floor(top / BIN); j <= Math.floor(bottom / BIN); j += 1) yield `${i} ${j}`;
    }
  }

  add(box) {
    for (const square of this.squares(box)) {
      if (!this.bins.has(square)) this.bins.set(square, []);
      this.bins.get(square).push(box);
    }
  }

  overlaps(box) {
    for (const square of this.squares(box)) {
      for (const other of this.bins.get(square) ?? []) {
        if (box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom)
          return true;
      }
    }
    return false;
  }
}
