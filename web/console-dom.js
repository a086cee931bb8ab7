// Makes and changes elements. Whatever comes from outside becomes text, never
// markup: nothing of the console sets innerHTML, and its policy forbids it.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** An element: attributes as given, functions as listeners of that event. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in a picture. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const byId = (id) => document.getElementById(id);

/** Changes text only where it differs, so that selections and readers keep calm. */
export function text(element, value) {
  const shown = String(value ?? "");
  if (element.textContent !== shown) element.textContent = shown;
}

const kept = new WeakMap();

/**
 * Shows `items` in `parent`, in this order. What is shown already stays the same
 * element, so that focus, selection and transitions live through every look.
 * `make(item)` answers `{ element, update(item) }`.
 */
export function keyed(parent, items, keyOf, make) {
  const before = kept.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const row = before.get(key) ?? make(item);
    row.update(item);
    now.set(key, row);
  }
  for (const [key, row] of before) if (!now.has(key)) row.element.remove();
  let place = parent.firstChild;
  for (const { element } of now.values()) {
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  kept.set(parent, now);
}

const whole = new Intl.NumberFormat("en");
export const number = (value) => whole.format(value ?? 0);
export const some = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

/** Bits a second. */
export function rate(bits) {
  const steps = [[1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"]];
  const step = steps.find(([size]) => bits >= size);
  return step ? `${(bits / step[0]).toFixed(bits / step[0] < 10 ? 1 : 0)} ${step[1]}` : `${bits ?? 0} bit/s`;
}

/** Seconds. */
export function seconds(value) {
  if (value < 0.0995) return `${Math.round(value * 1000)} ms`;
  return `${value.toFixed(value < 0.995 ? 2 : 1)} s`;
}

/** How long ago, in the two largest units that matter. */
export function since(when) {
  const past = Math.max(0, (Date.now() - Date.parse(when)) / 1000);
  if (past < 60) return `${Math.floor(past)} s`;
  if (past < 3600) return `${Math.floor(past / 60)} min ${Math.floor(past % 60)} s`;
  if (past < 86400) return `${Math.floor(past / 3600)} h ${Math.floor((past % 3600) / 60)} min`;
  return `${Math.floor(past / 86400)} d ${Math.floor((past % 86400) / 3600)} h`;
}

/** A moment, as short as it can be understood. */
export function moment(when) {
  if (!when) return "–";
  const at = new Date(when);
  const today = at.toDateString() === new Date().toDateString();
  const date = `${at.getFullYear()}-${`${at.getMonth() + 1}`.padStart(2, "0")}-${`${at.getDate()}`.padStart(2, "0")}`;
  const time = at.toTimeString().slice(0, 8);
  return today ? time : `${date} ${time}`;
}

/** A moment as an element: short to read, whole in its title. */
export const stamp = (when) => h("time", { datetime: when, title: when }, moment(when));

/** A table without rows, and its body. */
export function table(label, ...columns) {
  const body = h("tbody");
  const head = h("tr", null, ...columns.map((name) => h("th", { scope: "col" }, name)));
  const whole = h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": label },
    h("table", null, h("thead", null, head), body));
  return { whole, body };
}

/** Small and many: a word with a colour of its own. */
export const badge = (word) => h("span", { class: "badge", "data-state": word }, word);

/** Asks before something is done. Resolves to whether it was confirmed. */
export function confirmed(title, detail, action) {
  const dialog = byId("confirm");
  text(byId("confirm-title"), title);
  text(byId("confirm-detail"), detail);
  text(byId("confirm-yes"), action);
  dialog.returnValue = "";
  dialog.showModal();
  byId("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

let forgetting;

/** Says what was done, or why not. */
export function say(words, kind = "done") {
  const line = byId("said");
  text(line, words);
  line.dataset.kind = kind;
  line.hidden = false;
  clearTimeout(forgetting);
  forgetting = setTimeout(() => { line.hidden = true; }, kind === "done" ? 5000 : 15000);
}

/** Shows a secret once, with a button that copies it. */
export function secret(label, value) {
  const field = h("input", { readonly: true, value, spellcheck: "false", "aria-label": label });
  const copy = h("button", { type: "button", click: async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(value);
      text(copy, "Copied");
    } catch {
      // Selected: the keyboard copies it.
    }
  } }, "Copy");
  return h("div", { class: "secret" },
    h("p", null, h("strong", null, label), " Keep it now: nobody can show it again."),
    h("div", { class: "row" }, field, copy));
}
