// The Training section: a run's progress, its stages and every dataset's curve, followed while it trains.

import { address, onAddress, setAddress } from "./address.js";
import { onWidth } from "./canvas.js";
import { AXES, CURVES, fillLarge, fillPanel, frameOf, makePanel, openLarge } from "./curves.js";
import { announce, byId, fillSelect, make, notice, roveFocus } from "./dom.js";
import { ago, count, date, duration, mean, number, plural } from "./numbers.js";
import { showOverview } from "./overview.js";
import { poll, showConnection } from "./polling.js";
import { runList, status } from "./runs.js";
import { encode, get } from "./service.js";
import { stageBar, stageTable } from "./stages.js";

const PERIOD_MS = 2000;
const MANY = 40; // datasets, from which on their charts are small

let timeline = null;
let panels = new Map(); // dataset -> panel
let polling = null;
let opened = null; // dataset of the large chart

export function startTraining() {
  for (const id of ["curve", "axis", "heights", "sort", "filter"]) byId(id).addEventListener("input", draw);
  byId("run").addEventListener("change", (event) => setAddress({ run: event.target.value }));
  byId("curve-dialog").addEventListener("close", () => {
    opened = null;
  });
  roveFocus(byId("curves"), ".panel", columnsOfPanels);
  onWidth(byId("overview"), draw);
  onAddress(follow);
}

/** The list of runs has changed. */
export function offerRuns() {
  const runs = runList() ?? [];
  fillSelect(
    byId("run"),
    runs.map(({ run, status: state }) => [run.name, `${run.name}${state ? ` · ${state}` : ""}`]),
    chosenRun(),
  );
  if (address().tab !== "training") return;
  if (!runs.length)
    notice(byId("training-problem"), [
      make("strong", {}, "No run yet. "),
      "Start one with ",
      make("code", {}, "gst train -c RECIPE"),
      ".",
    ]);
  follow();
}

function chosenRun() {
  const runs = runList() ?? [];
  return address().run ?? (runs.find((view) => view.status === "running") ?? runs[0])?.run.name;
}

/** Ask for the chosen run every two seconds while this section is looked at. */
function follow() {
  const run = address().tab === "training" ? chosenRun() : null;
  byId("panel-training").classList.toggle("empty", !run);
  if (polling?.run === run) return;
  polling?.stop();
  polling = null;
  if (!run) return;
  if (timeline?.run !== run) {
    timeline = null;
    panels = new Map();
    byId("curves").replaceChildren();
    byId("run-facts").replaceChildren();
  }
  byId("run").value = run;
  polling = { run, ...poll(() => refresh(run), PERIOD_MS) };
}

async function refresh(run) {
  try {
    if (timeline?.run === run && !(await hasNews(run))) {
      showFacts();
      showConnection(null);
      return;
    }
    const next = await get(`v1/runs/${encode(run)}/timeline`);
    showConnection(null);
    if (polling?.run !== run) return;
    say(timeline, next);
    timeline = next;
    notice(
      byId("training-problem"),
      next.evals.length ? "" : "This run has not been evaluated yet. The first evaluation comes before its first step.",
    );
    draw();
  } catch (error) {
    showConnection(error);
    notice(byId("training-problem"), error.message);
  }
}

/** Whether the log holds anything new that is shown: a small question, asked before the large one. */
async function hasNews(run) {
  const page = await get(`v1/runs/${encode(run)}/events`, { after: timeline.position, limit: 1 });
  if (page.events.length || page.position < timeline.position) return true;
  timeline.position = page.position;
  return false;
}

function say(before, next) {
  const last = next.evals.at(-1);
  if (!before || before.run !== next.run || !last || before.evals.at(-1)?.step === last.step) return;
  const stage = next.stages.at(-1);
  const isNewStage = next.stages.length > before.stages.length;
  announce(
    `Step ${count(last.step)}: mean loss ${number(mean(last.loss))}${isNewStage ? `, stage ${stage.stage} has begun` : ""}`,
  );
}

function showFacts() {
  const view = (runList() ?? []).find((each) => each.run.name === timeline.run);
  const last = timeline.evals.at(-1);
  const first = timeline.evals[0];
  const facts = [
    ["Status", view ? status(view) : "–"],
    ["Stage", String(last?.stage ?? timeline.stages.at(-1)?.stage ?? "–")],
    ["Step", count(last?.step)],
    ["Samples", count(last?.samples)],
    ["Training time", duration(last?.wall_s)],
    [
      "Mean loss",
      last ? `${number(mean(last.loss))}` : "–",
      first && last !== first ? `from ${number(mean(first.loss))}` : "",
    ],
    ["Last evaluation", last?.t ? ago(last.t) : "–", last?.t ? date(last.t) : ""],
    [
      "Resumed",
      timeline.resumes.length ? `${timeline.resumes.length} ×` : null,
      timeline.resumes.length ? `last at step ${count(timeline.resumes.at(-1).step)}` : "",
    ],
  ];
  byId("run-facts").replaceChildren(
    ...facts
      .filter(([, value]) => value !== null)
      .map(([name, value, more]) =>
        make(
          "div",
          {},
          make("dt", {}, name),
          make("dd", {}, value, more ? make("small", { class: "quiet" }, more) : ""),
        ),
      ),
  );
}

function draw() {
  if (!timeline) return;
  const [curve, axis] = [byId("curve").value, byId("axis").value];
  const last = timeline.evals.at(-1);
  const along = [timeline.evals[0]?.[axis] ?? 0, Math.max(last?.[axis] ?? 1, 1e-9)];
  const begins = timeline.stages.map((stage) => placeOf(stage, axis));
  showFacts();
  showStages(along, begins, axis);
  const all = timeline.datasets.map((name, i) => seriesOf(name, i, curve, axis, begins));
  const shown = chosenSeries(all, curve);
  const borders = begins.slice(1);
  const common = frameOf(shown, along, curve, axis, borders);
  const frame = (series) =>
    byId("heights").value === "same" ? common : frameOf([series], along, curve, axis, borders);
  showPanels(shown, frame);
  showOverview(byId("overview"), shown, along, curve, axis, borders);
  byId("curves-title").textContent =
    `${CURVES[curve].words.charAt(0).toUpperCase()}${CURVES[curve].words.slice(1)} of ${shown.length === all.length ? `${all.length} datasets` : `${shown.length} of ${all.length} datasets`}`;
  byId("curves-key").textContent =
    `Dashed until a dataset is in the pool${borders.length ? "; upright lines: a stage begins" : ""}. Against ${AXES[axis].words}.`;
  const large = opened && all.find((series) => series.name === opened);
  if (large) fillLarge(large, frame(large), pointsOf(large.name));
}

function showStages(along, begins, axis) {
  const { stages } = timeline;
  byId("stages").replaceChildren(stageBar(stages, along, begins, isRunning()));
  const isOpen =
    byId("stages-table").querySelector("details")?.open ?? (stages.length > 1 && timeline.datasets.length <= MANY);
  const details = make(
    "details",
    {},
    make("summary", {}, `${plural(stages.length, "stage")} in words`),
    stageTable(stages, begins, axis),
  );
  details.open = isOpen;
  byId("stages-table").replaceChildren(stages.length ? details : "");
}

const isRunning = () => (runList() ?? []).find((view) => view.run.name === timeline.run)?.status === "running";

/** Where a stage begins on an axis; stages say no training time, so that is read off the evaluation at their step. */
function placeOf(stage, axis) {
  if (axis !== "wall_s") return stage[axis] ?? stage.step;
  const before = timeline.evals.filter((point) => point.step <= stage.step).at(-1);
  return before?.wall_s ?? 0;
}

function seriesOf(name, i, curve, axis, begins) {
  const points = timeline.evals
    .map((point) => ({ x: point[axis] ?? point.step, y: point[curve][i], step: point.step }))
    .filter((point) => point.y !== null);
  const stage = timeline.stages.findIndex(({ pool }) => pool.includes(name));
  const weight = timeline.stages.at(-1)?.weights?.[name];
  // Runs without stages train on everything from their start.
  const entered = timeline.stages.length === 0 ? -Infinity : stage < 0 ? null : begins[stage];
  return { name, points, entered, stage: stage < 0 ? null : stage, weight: weight ?? null };
}

function chosenSeries(all, curve) {
  const wanted = byId("filter").value.trim().toLowerCase();
  const last = (series) => series.points.at(-1)?.y ?? -Infinity;
  const gain = (series) => (series.points[0]?.y ?? 0) - last(series);
  const sign = curve === "loss" ? 1 : -1;
  const order = {
    name: () => 0,
    stage: (a, b) => (a.stage ?? Infinity) - (b.stage ?? Infinity),
    worst: (a, b) => sign * (last(b) - last(a)),
    change: (a, b) => sign * (gain(b) - gain(a)),
  }[byId("sort").value];
  return all
    .filter((series) => series.name.toLowerCase().includes(wanted))
    .sort((a, b) => order(a, b) || a.name.localeCompare(b.name));
}

function showPanels(shown, frame) {
  for (const series of shown) {
    if (!panels.has(series.name)) panels.set(series.name, makePanel(series.name, open));
    fillPanel(panels.get(series.name), series, frame(series));
  }
  const wanted = shown.map((series) => panels.get(series.name).element);
  const there = [...byId("curves").children];
  byId("curves").classList.toggle("many", shown.length > MANY);
  if (wanted.length !== there.length || wanted.some((element, i) => element !== there[i]))
    byId("curves").replaceChildren(...wanted);
  if (!wanted.some((element) => element.tabIndex === 0) && wanted.length) wanted[0].tabIndex = 0;
  if (!wanted.length && timeline.datasets.length)
    byId("curves").replaceChildren(make("p", { class: "quiet" }, "No dataset has such a name."));
}

function open(name) {
  const [curve, axis] = [byId("curve").value, byId("axis").value];
  const begins = timeline.stages.map((stage) => placeOf(stage, axis));
  const series = seriesOf(name, timeline.datasets.indexOf(name), curve, axis, begins);
  const along = [timeline.evals[0]?.[axis] ?? 0, timeline.evals.at(-1)?.[axis] ?? 1];
  opened = name;
  openLarge(series, frameOf([series], along, curve, axis, begins.slice(1)), pointsOf(name));
}

function pointsOf(name) {
  const i = timeline.datasets.indexOf(name);
  return timeline.evals.map((point) => ({ ...point, loss: point.loss[i], token_accuracy: point.token_accuracy[i] }));
}

function columnsOfPanels() {
  const items = [...byId("curves").children];
  const first = items[0]?.offsetTop;
  return Math.max(1, items.filter((item) => item.offsetTop === first).length);
}
