// Light, dark, or as the system says. Pictures on canvases are drawn again when it changes.

import { byId } from "./dom.js";

const KEY = "gst-theme";
const system = window.matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

export const isDark = () =>
  (document.documentElement.dataset.theme ?? "auto") === "dark" ||
  ((document.documentElement.dataset.theme ?? "auto") === "auto" && system.matches);

/** A colour of page.css by the name of its variable. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export const onTheme = (listener) => listeners.add(listener);

export function startTheme() {
  const select = byId("theme");
  select.value = saved();
  document.documentElement.dataset.theme = select.value;
  select.addEventListener("change", () => {
    document.documentElement.dataset.theme = select.value;
    try {
      localStorage.setItem(KEY, select.value);
    } catch {
      // a browser that stores nothing forgets the choice
    }
    tell();
  });
  system.addEventListener("change", tell);
}

function saved() {
  try {
    const value = localStorage.getItem(KEY);
    return ["light", "dark"].includes(value) ? value : "auto";
  } catch {
    return "auto";
  }
}

function tell() {
  for (const listener of listeners) listener();
}
