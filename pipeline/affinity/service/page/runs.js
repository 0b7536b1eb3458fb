// Which runs there are and how far they have come: a list that follows by itself.

import { address, setAddress } from "./address.js";
import { announce, byId, draw, make, makeTable, notice } from "./dom.js";
import { ago, count, date, fixed, mean, number, plural } from "./numbers.js";
import { poll, showConnection } from "./polling.js";
import { encode, get } from "./service.js";

const PERIOD_MS = 3000;
const MOST_TIMELINES = 24; // of the newest runs; the others show their progress when they are opened

let list = null; // newest first
const progress = new Map(); // run -> {seen, words}

export const runList = () => list;

/** Follow the list of runs; `onList` is told when it changes. */
export function startRuns(onList) {
  poll(async () => {
    try {
      list = (await get("v1/runs")).sort((a, b) => time(b) - time(a) || a.run.name.localeCompare(b.run.name));
      notice(byId("runs-problem"), "");
      showConnection(null);
      onList();
      if (address().tab !== "runs") return;
      show();
      await lookAtProgress();
    } catch (error) {
      showConnection(error);
      notice(byId("runs-problem"), error.message);
    }
  }, PERIOD_MS);
}

const time = (view) => view.started ?? (Date.parse(view.declared) / 1000 || 0);

/** A run's last evaluation and stage, read again only when its log has grown. */
async function lookAtProgress() {
  for (const view of list.slice(0, MOST_TIMELINES)) {
    const name = view.run.name;
    const seen = `${view.updated} ${view.events} ${view.status}`;
    if (progress.get(name)?.seen === seen) continue;
    const timeline = await get(`v1/runs/${encode(name)}/timeline`);
    const before = progress.get(name);
    const found = { seen, ...summary(timeline) };
    progress.set(name, found);
    if (before && before.step !== found.step)
      announce(`${name}: evaluated at step ${found.step}, mean loss ${number(found.loss)}`);
    show();
  }
}

function summary({ evals, stages }) {
  const last = evals.at(-1);
  if (!last) return {};
  return {
    step: last.step,
    stage: last.stage ?? stages.at(-1)?.stage,
    loss: mean(last.loss),
    losses: evals.map((point) => mean(point.loss)),
  };
}

export function show() {
  if (list === null) return;
  if (!list.length) {
    byId("runs").replaceChildren(
      make(
        "p",
        { class: "empty-words" },
        make("strong", {}, "No run yet. "),
        "Start one with ",
        make("code", {}, "gst train -c RECIPE"),
        ", or serve the folder of an experiment: ",
        make("code", {}, "gst serve runs/NAME"),
        ".",
      ),
    );
    return;
  }
  const columns = [
    { words: "Run" },
    { words: "Status" },
    { words: "Stage", class: "number" },
    { words: "Last evaluation", class: "number" },
    { words: "Mean loss", class: "number" },
    { words: "Datasets", class: "number" },
    { words: "Started" },
    { words: "Affinity" },
  ];
  // A table that is being read or copied from is left alone until the next time.
  if (!document.getSelection().isCollapsed && byId("runs").contains(document.getSelection().anchorNode)) return;
  const focused = document.activeElement?.closest?.("#runs a")?.dataset.link;
  const table = makeTable("Runs, newest first", columns, list.map(row));
  table.classList.add("stacking");
  byId("runs").replaceChildren(table);
  if (focused) [...byId("runs").querySelectorAll("a")].find((link) => link.dataset.link === focused)?.focus();
}

function row(view) {
  const { run } = view;
  const known = progress.get(run.name) ?? {};
  return [
    make(
      "span",
      { class: "run-name" },
      link(run.name, { tab: "training", run: run.name }),
      make("small", { class: "quiet" }, `${run.project} · ${run.arm} · seed ${run.seed}`),
    ),
    status(view),
    known.stage === undefined || known.stage === null ? "–" : String(known.stage),
    known.step === undefined ? "–" : `step ${count(known.step)}`,
    known.loss === undefined
      ? "–"
      : make(
          "span",
          { class: "with-spark", title: `${fixed(known.losses[0], 3)} at first` },
          spark(known.losses),
          fixed(known.loss, 3),
        ),
    count(run.datasets.length),
    date(view.started ?? view.declared),
    view.affinity_version
      ? link(view.affinity_version, { tab: "affinity", version: view.affinity_version })
      : view.probes.length
        ? plural(view.probes.length, "probe")
        : "–",
  ];
}

/** The course of the mean loss, as small as a word. */
function spark(losses) {
  const known = losses.filter(Number.isFinite);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const points = known.map(
    (loss, i) =>
      `${(2 + (76 * i) / Math.max(1, known.length - 1)).toFixed(1)},${(18 - (16 * (loss - low)) / (high - low || 1)).toFixed(1)}`,
  );
  return draw(
    "svg",
    { class: "spark", viewBox: "0 0 80 20", width: 80, height: 20, "aria-hidden": "true" },
    draw("polyline", { points: points.join(" "), class: "line" }),
  );
}

function link(words, parts) {
  return make(
    "a",
    {
      href: `#${new URLSearchParams(parts)}`,
      "data-link": `${parts.tab} ${words}`,
      onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        setAddress({ version: null, run: null, ...parts });
      },
    },
    words,
  );
}

/** The status as its log says it, or what is known of a run that was only pushed. */
export function status(view) {
  const words = view.status ?? (view.events ? "pushed" : "declared");
  const more = view.status === "running" && view.updated ? `seen ${ago(view.updated)}` : (view.stop_reason ?? "");
  return make("span", { class: "status", "data-status": words }, words, make("small", { class: "quiet" }, more));
}
