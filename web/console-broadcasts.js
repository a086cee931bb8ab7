// The list of broadcasts: search, pages, how many watch; and which is picked.

import { every } from "./console-api.js";
import { openBroadcast } from "./console-broadcast.js";
import { byId, h, keyed, number, since, some, text } from "./console-dom.js";
import { remember } from "./console-events.js";
import { sparkline } from "./console-system.js";

const EVERY = 3;
const PAGE = 25;
/** A search looks at so many of the newest, and shows so many. */
const SEARCHED = 5000;
const FOUND = 100;
/** Values kept for a line, and broadcasts that have one. */
const KEPT = 60;
const LINES = 500;

const watched = new Map();

function history({ id, viewers }) {
  const values = watched.get(id) ?? [];
  watched.delete(id);
  watched.set(id, values);
  values.push(viewers.total);
  if (values.length > KEPT) values.shift();
  if (watched.size > LINES) watched.delete(watched.keys().next().value);
  return values;
}

/** The id behind `#broadcast=`. */
const pickedId = () => /^#broadcast=([0-9a-z]{13})$/.exec(location.hash)?.[1] ?? null;

/** Answers a function that says what is known of the picked one, for the picture. */
export function openBroadcasts(api) {
  // Where each page before this one began.
  let before = [];
  let after = "";
  let next = null;
  const search = byId("search");
  const phase = byId("phase");
  const asked = () => ({ words: search.value.trim().toLowerCase(), state: phase.value, after });

  const look = every(EVERY, api.over.signal, async () => {
    const now = asked();
    const found = now.words ? await searched(api, now) : await page(api, now);
    // Somebody typed meanwhile: the next look is under way already.
    if (JSON.stringify(now) !== JSON.stringify(asked())) return;
    next = found.next;
    keyed(byId("broadcasts-list"), found.broadcasts, (broadcast) => broadcast.id, row);
    mark();
    text(byId("broadcasts-said"), summary(found, now));
    byId("newer").disabled = !before.length;
    byId("older").disabled = !next;
    text(byId("page"), before.length ? `page ${before.length + 1}` : "");
  });

  function restart() {
    [before, after] = [[], ""];
    look();
  }
  let typing;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(restart, 250); });
  phase.addEventListener("change", restart);
  byId("older").addEventListener("click", () => {
    if (next) { before.push(after); after = next; look(); }
  });
  byId("newer").addEventListener("click", () => {
    if (before.length) { after = before.pop(); look(); }
  });

  const detail = openBroadcast(api, () => look());
  const pick = () => { mark(); detail.pick(pickedId()); };
  addEventListener("hashchange", pick, { signal: api.over.signal });
  pick();
  return detail.links;
}

async function page(api, { state, after }) {
  const query = new URLSearchParams({ all: "true", limit: PAGE });
  if (state) query.set("state", state);
  if (after) query.set("after", after);
  return api.get(`/v1/broadcasts?${query}`);
}

async function searched(api, { words, state }) {
  const query = new URLSearchParams({ all: "true", limit: 1000 });
  if (state) query.set("state", state);
  const hit = (broadcast) => [broadcast.title, broadcast.id, broadcast.user, broadcast.origin]
    .some((field) => field?.toLowerCase().includes(words));
  const found = { broadcasts: [], next: null, total: 0, looked: 0 };
  do {
    const some = await api.get(`/v1/broadcasts?${query}`);
    found.total = some.total;
    found.looked += some.broadcasts.length;
    found.broadcasts.push(...some.broadcasts.filter(hit));
    query.set("after", some.next ?? "");
  } while (query.get("after") && found.looked < SEARCHED && found.broadcasts.length < FOUND);
  found.broadcasts.length = Math.min(found.broadcasts.length, FOUND);
  return found;
}

function summary({ broadcasts, total, looked }, { words, state }) {
  const kind = state || "known";
  if (words) {
    const where = looked < total ? `, among the ${number(looked)} newest of ${number(total)}` : "";
    return `${some(broadcasts.length, "match", "matches")}${where}.`;
  }
  if (!total) return state === "live" ? "Nobody is live at the moment. This page keeps looking." : `None is ${kind}.`;
  return `${some(total, "broadcast is", "broadcasts are")} ${kind}, the newest first.`;
}

function mark() {
  const picked = pickedId();
  for (const link of byId("broadcasts-list").querySelectorAll("a")) {
    if (link.dataset.id === picked) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

function row({ id }) {
  const title = h("strong");
  const state = h("span", { class: "badge" });
  const about = h("span", { class: "quiet" });
  const count = h("span", { class: "count" });
  const tiers = h("span", { class: "quiet tiers" });
  const line = sparkline(90, 26);
  const link = h("a", { href: `#broadcast=${id}`, "data-id": id },
    h("span", { class: "what" }, title, h("span", { class: "about" }, state, about)),
    line.element, h("span", { class: "watching" }, count, tiers));
  return { element: h("li", null, link), update(now) {
    text(title, now.title || "Untitled");
    text(state, now.state);
    state.dataset.state = now.state;
    const began = now.started_at ?? now.created_at;
    text(about, [now.private && "private", `on ${now.origin}`, began && !now.ended_at && since(began)]
      .filter(Boolean).join(" · "));
    text(count, number(now.viewers.total));
    text(tiers, `${number(now.viewers.push)} push · ${number(now.viewers.hls)} HLS`);
    line.update(history(now));
    remember(now);
  } };
}
