// What happens, as it happens.

import { byId, h, stamp, text } from "./console-dom.js";

/** Lines that are kept, and of them shown on the overview. */
const KEPT = 500;
const LATEST = 9;

const WORDS = {
  "broadcast.created": "was created", "broadcast.live": "went live", "broadcast.interrupted": "was interrupted",
  "broadcast.resumed": "came back", "broadcast.ended": "ended",
  "viewer.joined": "joined", "viewer.left": "left", "viewer.kicked": "was kicked from",
};

/** Titles by id, of the last that were seen: viewers' events name only the id. */
const titles = new Map();

export function remember({ id, title }) {
  titles.delete(id);
  if (title) titles.set(id, title);
  if (titles.size > 2000) titles.delete(titles.keys().next().value);
}

export function openEvents(api) {
  const all = byId("events-list");
  const latest = byId("latest");
  const kind = byId("events-kind");
  const hold = byId("events-hold");
  let waiting = [];

  function line(event) {
    const data = JSON.parse(event.data);
    if (data.title) remember({ id: data.broadcast, title: data.title });
    const link = h("a", { href: `#broadcast=${data.broadcast}`, title: data.broadcast },
      titles.get(data.broadcast) ?? data.broadcast);
    const what = WORDS[event.event] ?? event.event;
    const words = data.viewer
      ? [h("code", null, data.viewer), ` ${what} `, link]
      : [link, ` ${what}`, data.name ? ` (${data.name})` : null];
    return h("li", { "data-event": event.event }, stamp(data.at ?? new Date().toISOString()), " ",
      h("span", null, ...words.filter(Boolean)));
  }

  function put(list, item, most) {
    list.prepend(item);
    while (list.children.length > most) list.lastChild.remove();
  }

  const wanted = (item) => item.dataset.event.startsWith(kind.value);
  kind.addEventListener("change", () => {
    for (const item of all.children) item.hidden = !wanted(item);
  });
  hold.addEventListener("click", () => {
    const held = hold.getAttribute("aria-pressed") !== "true";
    hold.setAttribute("aria-pressed", held);
    if (!held) for (const item of waiting.splice(0)) put(all, item, KEPT);
    label();
  });
  function label() {
    const held = hold.getAttribute("aria-pressed") === "true";
    text(hold, held ? `Go on (${waiting.length} new)` : "Hold");
  }

  const none = h("li", { class: "quiet", "data-event": "" }, "Nothing has happened since this page was opened.");
  all.append(none);

  const states = { opening: "connecting…", open: "listening", closed: "connection lost, trying again…" };
  api.listen("/v1/events", {
    state: (word) => text(byId("events-state"), states[word]),
    told(event) {
      let item;
      try {
        item = line(event);
      } catch {
        // Not one of ours; the next one may be.
        return;
      }
      item.hidden = !wanted(item);
      byId("latest-none").hidden = true;
      none.remove();
      put(latest, line(event), LATEST);
      if (hold.getAttribute("aria-pressed") === "true") {
        waiting.push(item);
        waiting = waiting.slice(-KEPT);
        label();
      } else {
        put(all, item, KEPT);
      }
    },
  });
}
