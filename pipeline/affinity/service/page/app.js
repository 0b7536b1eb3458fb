// Starts the page: sections as tabs, the theme, and what every section follows.

import { address, onAddress, setAddress } from "./address.js";
import { startAffinity } from "./affinity.js";
import { offerVersions, startCompare } from "./compare.js";
import { byId, roveFocus } from "./dom.js";
import { startMap } from "./map.js";
import * as runs from "./runs.js";
import { startStability } from "./stability.js";
import { startTheme } from "./theme.js";
import { offerRuns, startTraining } from "./training.js";
import { startVersions } from "./versions.js";

const TABS = ["runs", "affinity", "map", "stability", "training", "compare"];
const TITLE = document.title;

function startTabs() {
  for (const tab of TABS) byId(`tab-${tab}`).addEventListener("click", () => setAddress({ tab }));
  const list = document.querySelector("[role=tablist]");
  roveFocus(list, "[role=tab]");
  // Arrow keys choose at once, as tabs do.
  list.addEventListener("focusin", (event) => {
    if (event.target.matches("[role=tab]:focus-visible")) setAddress({ tab: event.target.id.replace("tab-", "") });
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the part after # is the address of what is shown
    byId("content").focus();
  });
}

function showTab() {
  const { tab } = address();
  if (!TABS.includes(tab)) {
    setAddress({ tab: address().run ? "training" : address().version ? "affinity" : "runs" });
    return;
  }
  for (const each of TABS) {
    const isShown = each === tab;
    byId(`panel-${each}`).hidden = !isShown;
    byId(`tab-${each}`).setAttribute("aria-selected", isShown);
    byId(`tab-${each}`).tabIndex = isShown ? 0 : -1;
  }
  byId(`tab-${tab}`).scrollIntoView({ block: "nearest", inline: "nearest" });
  document.title = `${byId(`tab-${tab}`).textContent} · ${TITLE}`;
  if (tab === "runs") runs.show();
}

startTheme();
startTabs();
startAffinity();
startMap();
startStability();
startTraining();
startCompare();
onAddress(showTab);
showTab();
startVersions(offerVersions);
runs.startRuns(offerRuns);
