// Which affinity versions there are, and the one that is shown: version, measure and part of the model.

import { address, onAddress, setAddress } from "./address.js";
import { announce, byId, fillSelect, make, notice } from "./dom.js";
import { date, plural } from "./numbers.js";
import { poll, showConnection } from "./polling.js";
import { encode, get } from "./service.js";

const PERIOD_MS = 5000;
const KEPT_VIEWS = 6;
const TABS = ["affinity", "map", "stability"];

const views = new Map(); // "version metric module" -> promise of a view; versions never change
const listeners = [];
let list = null; // of versions, newest first
let shown = ""; // key of the view on the page

/** `listener(view)` is called when another view is to be shown. */
export const onView = (listener) => listeners.push(listener);

/** [id, words] for a select, newest first. */
export const versionChoices = () =>
  (list ?? []).map((version) => [
    version.id,
    `${version.id} · ${date(version.created)} · ${version.method} · ${plural(version.datasets, "dataset")}, ${plural(version.groups, "group")}` +
      (version.run ? ` · ${version.run} step ${version.step}` : ""),
  ]);

export const versionList = () => list;

export const NO_VERSION = () => [
  make("strong", {}, "No affinity version yet. "),
  "Measure the datasets’ gradients with ",
  make("code", {}, "gst probe -c RECIPE"),
  ", then run ",
  make("code", {}, "gst group -c RECIPE"),
  ". It appears here by itself.",
];

export function startVersions(onList) {
  poll(async () => {
    try {
      const before = list?.length;
      list = (await get("v1/versions")).reverse();
      showConnection(null);
      if (before !== undefined && list.length > before) announce(`New affinity version ${list[0].id}`);
      onList();
      refresh();
    } catch (error) {
      showConnection(error);
      if (list === null && inUse()) notice(byId("version-problem"), error.message);
    }
  }, PERIOD_MS);
  byId("version").addEventListener("change", (event) => setAddress({ version: event.target.value, module: null }));
  byId("module").addEventListener("change", (event) => setAddress({ module: event.target.value }));
  byId("metric").addEventListener("change", (event) => setAddress({ metric: event.target.value }));
  onAddress(refresh);
}

const inUse = () => TABS.includes(address().tab);

/** Show what the address asks for. */
async function refresh() {
  byId("version-bar").hidden = !inUse() || !list?.length;
  if (!inUse()) {
    notice(byId("version-problem"), "");
    return;
  }
  if (list === null) return;
  if (!list.length) {
    showPanels(false);
    notice(byId("version-problem"), NO_VERSION());
    return;
  }
  const { version = list[0].id, metric = "distance", module = "" } = address();
  fillSelect(byId("version"), versionChoices(), version);
  for (const input of byId("metric").querySelectorAll("input")) input.checked = input.value === metric;
  const key = [version, metric, module].join(" ");
  if (key === shown) return;
  try {
    const view = await load(key, version, metric, module);
    if (currentKey() !== key) return; // something else was asked for in the meantime
    shown = key;
    notice(byId("version-problem"), "");
    showPanels(true);
    fillSelect(byId("module"), [["", "the whole gradient"], ...view.modules.map((name) => [name, name])], module);
    byId("module").disabled = view.modules.length === 0;
    for (const listener of listeners) listener(view);
  } catch (error) {
    shown = "";
    showPanels(false);
    notice(byId("version-problem"), [
      error.message,
      " ",
      make("button", { type: "button", onclick: showLatest }, "Show the newest version"),
    ]);
  }
}

function showPanels(hasView) {
  for (const panel of TABS) byId(`panel-${panel}`).classList.toggle("empty", !hasView);
}

function currentKey() {
  const { version = list[0].id, metric = "distance", module = "" } = address();
  return [version, metric, module].join(" ");
}

function showLatest() {
  setAddress({ version: null, metric: null, module: null });
}

function load(key, version, metric, module) {
  if (!views.has(key)) {
    const asked = get(`v1/versions/${encode(version)}/view`, { metric, module });
    asked.catch(() => views.delete(key));
    views.set(key, asked);
    if (views.size > KEPT_VIEWS) views.delete(views.keys().next().value);
  }
  return views.get(key);
}
