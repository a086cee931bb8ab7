// One broadcast: what it is, who watches, how late they see it; kick and end.

import { Refused, every } from "./console-api.js";
import { delayPanel } from "./console-delay.js";
import { byId, confirmed, h, keyed, number, say, since, some, stamp, table, text } from "./console-dom.js";

const EVERY = 2;
/** Viewers that are shown; the others are counted. */
const SHOWN = 200;

export function openBroadcast(api, changed) {
  const panel = byId("detail");
  let shown = null;
  let known = null;

  const look = every(EVERY, api.over.signal, async () => {
    const view = shown;
    if (!view || view.over) return;
    const path = `/v1/broadcasts/${view.id}`;
    try {
      const [broadcast, watching, delay] = await Promise.all([
        api.get(path), api.get(`${path}/viewers`), api.get(`${path}/delay`).catch(missing),
      ]);
      if (shown !== view) return;
      const edges = new Set(watching.viewers.map((viewer) => viewer.edge).filter(Boolean));
      known = { origin: broadcast.origin, gateway: broadcast.gateway, edges: [...edges] };
      view.update(broadcast, watching, delay);
    } catch (error) {
      if (shown === view && error instanceof Refused && error.status === 404) view.gone();
      else throw error;
    }
  });

  return {
    links: () => (shown ? known : null),
    pick(id) {
      if (shown?.id === id) return;
      known = null;
      shown = id ? detail(api, id, () => { look(); changed(); }) : null;
      panel.hidden = !id;
      byId("stage").classList.toggle("picked", !!id);
      panel.replaceChildren(...(shown ? shown.elements : []));
      if (!id) return;
      panel.focus({ preventScroll: true });
      panel.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      look();
    },
  };
}

/** No delay is known: the rest is still worth seeing. */
function missing(error) {
  if (error instanceof Refused && error.status) return null;
  throw error;
}

function detail(api, id, changed) {
  const path = `/v1/broadcasts/${id}`;
  const title = h("h2", { id: "detail-title" }, "…");
  const state = h("span", { class: "badge" });
  const facts = h("dl", { class: "facts" });
  const end = h("button", { type: "button", class: "danger", id: "end", click: () => act(
    `End “${title.textContent}”?`, "Its broadcaster is cut off and nobody can bring it back.", "End",
    () => api.post(`${path}/end`), "The broadcast has ended.",
  ) }, "End");
  const watch = h("a", { href: `/watch/${id}`, target: "_blank", rel: "noreferrer", class: "button" }, "Watch");
  const close = h("a", { href: "#overview", class: "button", "aria-label": "Close" }, "✕");
  const who = h("h3", null, "Who watches");
  const viewers = table("Viewers", "Viewer", "Tier", "Where", "Since", "");
  const delays = delayPanel();

  async function act(question, about, word, send, done) {
    if (!await confirmed(question, about, word)) return;
    try {
      await send();
      say(done);
    } catch (error) {
      say(error.message, "refused");
    }
    changed();
  }

  function viewer(first) {
    const where = h("td");
    const tier = h("span", { class: "badge" });
    const when = h("td");
    const name = h("td", null, h("code", null, first.viewer));
    const kick = h("button", { type: "button", class: "danger", "data-kick": first.viewer, click: () => act(
      `Kick ${first.viewer}?`, "The viewer is cut off within a second and cannot come back with this place.", "Kick",
      () => api.post(`${path}/viewers/${first.viewer}/kick`), `${first.viewer} was cut off.`,
    ) }, "Kick");
    if (first.user) name.append(h("span", { class: "quiet" }, ` user ${first.user}`));
    const element = h("tr", null, name, h("td", null, tier), where, when, h("td", { class: "end" }, kick));
    return { element, update(now) {
      tier.dataset.state = now.tier;
      text(tier, now.seat ? `${now.tier} seat ${now.seat}` : now.tier);
      text(where, now.node);
      text(when, since(now.since));
    } };
  }

  let seen = false;

  return {
    id,
    /** There is none of this id, and there will be none: ids are not given twice. */
    over: false,
    elements: [
      h("div", { class: "title" }, h("div", null, title, state), h("div", { class: "row" }, watch, end, close)),
      facts, delays.element, who, viewers.whole,
    ],
    gone() {
      this.over = true;
      text(title, seen ? "This broadcast is not there any more" : "There is no such broadcast");
      text(state, id);
      state.removeAttribute("data-state");
      for (const element of [watch, end, facts, delays.element, who, viewers.whole]) element.hidden = true;
    },
    update(broadcast, watching, delay) {
      seen = true;
      text(title, broadcast.title || "Untitled");
      text(state, broadcast.state);
      state.dataset.state = broadcast.state;
      end.disabled = broadcast.state === "ended";
      const lines = [
        ["Id", h("code", null, id)],
        ["Origin", broadcast.origin],
        ...(broadcast.gateway ? [["Gateway", broadcast.gateway]] : []),
        ["By", broadcast.user ? h("code", null, broadcast.user) : "the operator"],
        ["For", broadcast.private ? "those it names" : "everybody"],
        ["Began", broadcast.started_at ? stamp(broadcast.started_at) : "not yet"],
        broadcast.ended_at ? ["Ended", stamp(broadcast.ended_at)]
          : ["On air", broadcast.started_at ? since(broadcast.started_at) : "–"],
        ["Chunks", `${broadcast.chunk_seconds} s${broadcast.part_seconds ? `, parts ${broadcast.part_seconds} s` : ""}`],
        ["Viewers", `${number(broadcast.viewers.push)} push · ${number(broadcast.viewers.hls)} HLS`
          + (broadcast.viewers.anonymous_estimate ? ` · about ${number(broadcast.viewers.anonymous_estimate)} did not join` : "")],
      ];
      keyed(facts, lines, ([name]) => name, ([name]) => {
        const value = h("dd");
        return { element: h("div", null, h("dt", null, name), value), update: ([, fresh]) => {
          const words = fresh.textContent ?? fresh;
          if (value.textContent !== words) value.replaceChildren(fresh);
        } };
      });
      const some_ = watching.viewers.slice(0, SHOWN);
      keyed(viewers.body, some_, (one) => one.viewer, viewer);
      viewers.whole.hidden = !some_.length;
      text(who, watching.total > some_.length ? `Who watches: the first ${some_.length} of ${number(watching.total)}`
        : watching.total ? some(watching.total, "viewer", "viewers") : "Nobody has joined");
      delays.update(delay);
    },
  };
}
