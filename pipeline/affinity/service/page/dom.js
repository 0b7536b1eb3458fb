// Building elements. Names of datasets, runs and groups are foreign text: they only ever become text nodes.

const TAIL = 7; // characters at the end of a name that always show
const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element: `make("p", {class: "quiet"}, "words", child)`. Keys that start with `on` are listeners. */
export function make(tag, attributes = {}, ...children) {
  return finish(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function draw(tag, attributes = {}, ...children) {
  return finish(document.createElementNS(SVG, tag), attributes, children);
}

function finish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** A name that is cut in its middle where it is too long: names often differ at their ends only. */
export function longName(name) {
  const letters = [...name];
  const cut = Math.max(0, letters.length - TAIL);
  return make(
    "span",
    { class: "name", title: name },
    make("span", { class: "name-head" }, letters.slice(0, cut).join("")),
    make("span", {}, letters.slice(cut).join("")),
  );
}

/** Fill a select with [value, words] pairs and choose one; it is left alone when nothing changes. */
export function fillSelect(select, choices, chosen) {
  const same =
    select.options.length === choices.length &&
    choices.every(([value, words], i) => select.options[i].value === value && select.options[i].text === words);
  if (!same) select.replaceChildren(...choices.map(([value, words]) => make("option", { value }, words)));
  if (chosen !== undefined && chosen !== null) select.value = chosen;
}

/** A table of rows of cells; a cell is a string, a node, or {content, class, label}. The first of a row is its header. */
export function makeTable(caption, columns, rows) {
  const head = make(
    "tr",
    {},
    columns.map((column) => make("th", { scope: "col", class: column.class }, column.words)),
  );
  const body = rows.map((row) =>
    make(
      "tr",
      {},
      row.map((cell, i) =>
        make(
          i === 0 ? "th" : "td",
          { scope: i === 0 ? "row" : null, class: columns[i].class, "data-label": columns[i].words },
          cell,
        ),
      ),
    ),
  );
  return make(
    "table",
    {},
    make("caption", { class: "visually-hidden" }, caption),
    make("thead", {}, head),
    make("tbody", {}, body),
  );
}

/** Tell screen readers what changed. */
export function announce(words) {
  byId("announcer").textContent = words;
}

/** Show a notice, or hide it when there is nothing to say. */
export function notice(element, words) {
  element.hidden = !words;
  element.replaceChildren(...(words ? [].concat(words) : []));
}

/** Let the arrow keys move between the children of `list`, of which one at a time is in the tab order. */
export function roveFocus(list, selector, columns = () => 1) {
  list.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (!item) return;
    for (const other of list.querySelectorAll(selector)) other.tabIndex = other === item ? 0 : -1;
  });
  list.addEventListener("keydown", (event) => {
    const items = [...list.querySelectorAll(selector)];
    const here = items.indexOf(event.target.closest(selector));
    const steps = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: columns(),
      ArrowUp: -columns(),
      Home: -here,
      End: items.length - 1 - here,
    };
    if (here < 0 || !(event.key in steps)) return;
    event.preventDefault();
    items[Math.min(Math.max(here + steps[event.key], 0), items.length - 1)]?.focus();
  });
}
