// The part of the address after # says what is shown, so that a link shows the same: #tab=affinity&version=v-…

const listeners = [];

export function address() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** Change some parts; null removes one. A change of tab is a step that the Back button undoes. */
export function setAddress(parts) {
  const before = location.hash.slice(1);
  const next = new URLSearchParams(before);
  for (const [name, value] of Object.entries(parts)) {
    if (value === null || value === undefined || value === "") next.delete(name);
    else next.set(name, value);
  }
  if (next.toString() === new URLSearchParams(before).toString()) return;
  const target = `#${next}`;
  if ("tab" in parts && parts.tab !== new URLSearchParams(before).get("tab") && before)
    history.pushState(null, "", target);
  else history.replaceState(null, "", target);
  tell();
}

export function onAddress(listener) {
  listeners.push(listener);
}

function tell() {
  for (const listener of listeners) listener(address());
}

window.addEventListener("hashchange", tell);
window.addEventListener("popstate", tell);
