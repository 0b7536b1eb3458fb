// What the measures of affinity are called, what they mean, and how their values become colours.

import { commonExponent, fixed, number, plural } from "./numbers.js";
import { divergingScale, sequentialScale } from "./palette.js";
import { quantile, sortedPairs } from "./triangle.js";

const TAIL = 0.02; // a few extreme pairs must not take all the colours

export const MEASURES = {
  distance: {
    name: "squared distance",
    low: "alike",
    high: "apart",
    hasDiagonal: false,
    isNear: (a, b) => a - b,
    meaning: {
      gradient:
        "Distance: how far apart the mean gradients of two datasets are, squared and without the part that noise adds; " +
        "small means that they ask for the same change of the model.",
      transferability:
        "Distance: how much two datasets lose together when each is trained on the other instead of on itself; small " +
        "means that they can stand in for each other.",
    },
  },
  cosine: {
    name: "cosine",
    low: "hinder",
    high: "help",
    hasDiagonal: false,
    isNear: (a, b) => b - a,
    meaning: {
      gradient:
        "Cosine: whether two datasets pull the model the same way, whatever the size of their gradients: above 0 a step " +
        "for one helps the other, below 0 it hinders it.",
      transferability:
        "Cosine: how much of what a dataset gains from itself it gains from the other one: above 0 training on one " +
        "helps the other, below 0 it hinders it.",
    },
  },
  gram: {
    name: "inner product",
    low: "hinder",
    high: "help",
    hasDiagonal: true,
    isNear: (a, b) => b - a,
    meaning: {
      gradient:
        "Inner product: how much a small step along the gradient of one dataset lowers the loss of the other; below 0 " +
        "it raises it.",
      transferability:
        "Inner product: the share of its loss that a dataset sheds when a short training is on the other one; below 0 " +
        "the loss rises.",
    },
  },
};

export const NOISE_SCALE_MEANING =
  "Noise scale: how many micro-batches it takes until the noise of a dataset’s mean gradient is as small as the " +
  "gradient itself.";

/** What a measure means; short trainings stand where gradients do in versions made by transferability. */
export const meaningOf = (view) => {
  const { gradient, [view.method]: own = gradient } = MEASURES[view.metric].meaning;
  return own;
};

/** What is known of one dataset, in words. */
export function aboutDataset(dataset) {
  const { noise_scale: scale, norm, batches } = dataset;
  return [
    scale === null ? "noise scale not known" : `noise scale ${number(scale)}`,
    norm === null ? "gradient norm lost in noise" : `gradient norm ${number(norm)}`,
    batches ? plural(batches, "micro-batch", "micro-batches") : "",
  ].filter(Boolean);
}

/** The colours of a matrix under a measure, without its most extreme pairs. */
export function scaleOf(metric, matrix) {
  const sorted = sortedPairs(matrix);
  const [low, high] = [quantile(sorted, TAIL), quantile(sorted, 1 - TAIL)];
  if (metric === "distance") return withCuts(sequentialScale(Math.max(0, low), Math.max(high, low, 0), "low"), sorted);
  return withCuts(divergingScale(Math.max(Math.abs(low), Math.abs(high))), sorted);
}

/** Whether there are values beyond the ends of a scale, which have the colours of its ends. */
export function withCuts(scale, sorted) {
  return { ...scale, isCutLow: sorted[0] < scale.low, isCutHigh: sorted.at(-1) > scale.high };
}

/** Short numbers for cells: {exponent: of the power of ten that they leave out, short(value)}. */
export function cellNumbers(scale) {
  const exponent = commonExponent(Math.max(Math.abs(scale.low), Math.abs(scale.high)));
  return { exponent, short: (value) => fixed(value / 10 ** exponent, 2) };
}

/** "0.31 to 0.55 (95 % interval)", or why there is none. */
export function intervalWords(low, high, level) {
  if (low === null || high === null || low === undefined) return "no interval";
  return `${level ? `${Math.round(level * 100)} % ` : ""}interval ${number(low)} to ${number(high)}`;
}
