
"use strict";
// Filter: a clip is shown when all words occur in its dataset, split, id, tasks or texts.
const clips = [...document.querySelectorAll(".clip")];
const datasets = [...document.querySelectorAll(".dataset")];
const field = (name) => document.getElementById(name);
const texts = new Map();

function textOf(element) {
  if (!texts.has(element)) {
    texts.set(element, `${element.dataset.search ?? ""} ${element.textContent}`.toLowerCase());
  }
  return texts.get(element);
}

function filter() {
  const words = field("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const split = field("split").value;
  const task = field("task").value;
  let shown = 0;
  for (const clip of clips) {
    const fits = (!split || clip.dataset.split === split)
      && (!task || JSON.parse(clip.dataset.tasks).includes(task))
      && words.every((word) => textOf(clip).includes(word));
    clip.hidden = !fits;
    shown += fits ? 1 : 0;
  }
  const all = !words.length && !split && !task;
  for (const part of document.querySelectorAll(".split, .dataset")) {
    part.hidden = !all && !part.querySelector(".clip:not([hidden])");
  }
  const hidden = new Set(datasets.filter((section) => section.hidden).map((section) => section.dataset.dataset));
  for (const row of document.querySelectorAll("tr[data-dataset]")) {
    row.hidden = hidden.has(row.dataset.dataset);
  }
  field("count").textContent = all ? `${clips.length} clips` : `${shown} of ${clips.length} clips`;
}

function offer(select, values) {
  for (const value of [...new Set(values)].sort()) {
    select.add(new Option(value, value));
  }
}

offer(field("split"), clips.map((clip) => clip.dataset.split));
offer(field("task"), clips.flatMap((clip) => JSON.parse(clip.dataset.tasks)));
for (const name of ["words", "split", "task"]) {
  field(name).addEventListener("input", filter);
}
document.querySelector(".bar").addEventListener("submit", (event) => event.preventDefault());
filter();

// Players: load all of them, a few at a time, and say which do not decode or have another length than recorded.
const MOST_AT_ONCE = 6;
const LENGTH_SLACK_S = 0.05;
const players = [...document.querySelectorAll("audio")];
const waiting = [...players];
let loading = 0;
let faults = 0;

function fault(player, words) {
  faults += 1;
  const line = document.createElement("p");
  line.className = "fault";
  line.textContent = words;
  player.after(line);
  player.closest(".clip").classList.add("broken");
}

function settle(player, words) {
  if (words) {
    fault(player, words);
  }
  loading -= 1;
  next();
}

function next() {
  while (loading < MOST_AT_ONCE && waiting.length) {
    const player = waiting.shift();
    loading += 1;
    const both = new AbortController();
    player.addEventListener("loadedmetadata", () => {
      both.abort();
      player.dataset.duration = player.duration;
      const off = Math.abs(player.duration - Number(player.dataset.expected));
      settle(player, off > LENGTH_SLACK_S ? `It lasts ${player.duration} s, recorded are ${player.dataset.expected} s.` : "");
    }, { signal: both.signal });
    player.addEventListener("error", () => {
      both.abort();
      player.dataset.error = player.error ? player.error.message || `code ${player.error.code}` : "unknown";
      settle(player, "This audio does not play.");
    }, { signal: both.signal });
    player.preload = "metadata";
    player.load();
  }
  const done = players.length - waiting.length - loading;
  field("audio").textContent = faults ? `${faults} of ${done} players failed` : `${done} of ${players.length} players ready`;
  field("audio").classList.toggle("bad", faults > 0);
  if (done === players.length) {
    document.documentElement.dataset.players = "settled";
  }
}

for (const player of players) {
  player.addEventListener("play", () => {
    for (const other of players) {
      if (other !== player) {
        other.pause();
      }
    }
  });
}
next();
