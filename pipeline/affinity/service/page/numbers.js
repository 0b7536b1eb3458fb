// Numbers as people read them.

export const NONE = "–";
const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const COUNT = new Intl.NumberFormat("en-GB");
const DAY = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** Three significant digits, a real minus sign, and powers of ten outside of 0.001 ... 100,000. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) {
    const [head, exponent] = value.toExponential(digits - 1).split("e");
    return `${minus(head)}\u00a0×\u00a0${powerOfTen(Number(exponent))}`; // on one line
  }
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return minus(size >= 1000 ? COUNT.format(Math.round(value)) : value.toFixed(decimals));
}

/** A fixed number of decimals. */
export function fixed(value, decimals = 2) {
  return value === null || value === undefined || !Number.isFinite(value) ? NONE : minus(value.toFixed(decimals));
}

/** Of the values that are known; NaN when none is. */
export function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.reduce((sum, value) => sum + value, 0) / known.length;
}

export const count = (value) => (Number.isFinite(value) ? COUNT.format(value) : NONE);

export const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)} %` : NONE);

export const range = (low, high) => `${number(low)} to ${number(high)}`;

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** 75 -> "1 min 15 s". */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds < 60) return `${Number.isInteger(seconds) || seconds >= 10 ? Math.round(seconds) : seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}

/** "3 min 5 s ago" for a time in seconds since 1970; its date when that was long ago. */
export function ago(time) {
  const seconds = Math.round(Date.now() / 1000 - time);
  return seconds >= 0 && seconds < 86400 ? `${duration(seconds)} ago` : date(time);
}

/** An ISO time, or seconds since 1970, in the reader's own time zone. */
export function date(time) {
  const moment = new Date(typeof time === "number" ? time * 1000 : time || NaN);
  return Number.isNaN(moment.getTime()) ? NONE : DAY.format(moment);
}

/** The power of ten to divide by so that numbers up to `largest` fit into a cell of a heatmap; 0 for none. */
export function commonExponent(largest) {
  if (!largest || (largest < 1000 && largest >= 0.1)) return 0;
  return Math.floor(Math.log10(largest));
}

export const powerOfTen = (exponent) => `10${[...String(exponent)].map((sign) => SUPERSCRIPT[sign]).join("")}`;

/** A round number as it stands at an axis: 0.5 rather than 0.500. */
export function tick(value) {
  const size = Math.abs(value);
  if (size < 1e-12) return "0";
  return size >= 1e5 || size < 1e-3
    ? number(value)
    : minus(size >= 1000 ? COUNT.format(value) : String(Number(value.toPrecision(6))));
}

/** About `n` round numbers from `low` to `high`. */
export function ticks(low, high, n = 4) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step || 0); // never -0
  return found;
}

function minus(text) {
  return text.replace("-", "−");
}
