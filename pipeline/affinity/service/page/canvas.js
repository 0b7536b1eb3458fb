// Canvases that are sharp on every screen.

const REDRAW_MARGIN_PX = 1;

/** Size a canvas in CSS pixels and return its context, which draws in CSS pixels too. */
export function sharpContext(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [columns, rows] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== columns || canvas.height !== rows) {
    canvas.width = columns;
    canvas.height = rows;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Call `draw` when the width of `element` changes, also when it is shown again after it was hidden. */
export function onWidth(element, draw) {
  let last = -1;
  const observer = new ResizeObserver(() => {
    const width = element.clientWidth;
    const isSame = Math.abs(width - last) < REDRAW_MARGIN_PX;
    last = width;
    if (width > 0 && !isSame) requestAnimationFrame(draw);
  });
  observer.observe(element);
  return observer;
}

/** `text`, its middle left out where it does not fit into `width` pixels: names often differ at their ends only. */
export function shorten(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const without = (kept) => `${text.slice(0, Math.ceil(kept / 2))}…${text.slice(text.length - Math.floor(kept / 2))}`;
  let [fits, tooLong] = [0, text.length];
  while (tooLong - fits > 1) {
    const middle = (fits + tooLong) >> 1;
    if (context.measureText(without(middle)).width <= width) fits = middle;
    else tooLong = middle;
  }
  return without(fits);
}
