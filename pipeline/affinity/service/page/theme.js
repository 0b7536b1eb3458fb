// Light, dark, or as the system says. Pictures on canvases are drawn again when it changes.

import { byId } from "./dom.js";

const KEY = "gst-theme";
const SYSTEM = "(prefers-color-scheme: dark)";
const WHEN_DARK = { auto: SYSTEM, dark: "all", light: "not all" }; // when the sheet of dark colours holds
const darkSheet = byId("dark-colours");
const listeners = new Set();

export const isDark = () => window.matchMedia(darkSheet.media).matches;

/** A colour of page.css by the name of its variable. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export const onTheme = (listener) => listeners.add(listener);

export function startTheme() {
  const select = byId("theme");
  select.value = saved();
  darkSheet.addEventListener("load", tell); // it may come after the first drawing
  darkSheet.media = WHEN_DARK[select.value];
  select.addEventListener("change", () => {
    darkSheet.media = WHEN_DARK[select.value];
    try {
      localStorage.setItem(KEY, select.value);
    } catch {
      // a browser that stores nothing forgets the choice
    }
    tell();
  });
  window.matchMedia(SYSTEM).addEventListener("change", tell);
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
