// Asking again and again, but never while nobody looks.

import { byId } from "./dom.js";

const waiting = new Set();

/** Run `task` now and every `period_ms`, except while the tab is hidden. Returns {now, stop}. */
export function poll(task, periodMs) {
  let timer = null;
  let running = false;
  let stopped = false;

  async function now() {
    clearTimeout(timer);
    if (running || stopped || document.hidden) return;
    running = true;
    try {
      await task();
    } finally {
      running = false;
    }
    if (!stopped) timer = setTimeout(now, periodMs);
  }

  waiting.add(now);
  now();
  return {
    now,
    stop() {
      stopped = true;
      clearTimeout(timer);
      waiting.delete(now);
    },
  };
}

/** Say in the header whether the service answers; what else went wrong is said where it matters. */
export function showConnection(error) {
  const shown = byId("connection");
  const state = { 0: "lost", 401: "closed" }[error?.status] ?? (document.hidden ? "paused" : "live");
  if (shown.dataset.state === state) return;
  shown.dataset.state = state;
  shown.textContent = { lost: "no answer", closed: "token needed", paused: "paused", live: "live" }[state];
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) showConnection(null);
  else for (const now of waiting) now();
});
