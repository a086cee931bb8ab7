// Origins and edges: the numbers above, the picture, and a card for each with
// its drain.

import { every } from "./console-api.js";
import { byId, confirmed, h, keyed, number, rate, say, some, svg, text } from "./console-dom.js";
import { HIGH, WIDE, links, placed } from "./console-picture.js";

const EVERY = 3;

/** `picked()`: the picked broadcast's origin and edges, or nothing. */
export function openSystem(api, picked) {
  const look = every(EVERY, api.over.signal, async () => {
    const [{ nodes }, census] = await Promise.all([
      api.get("/v1/nodes"), api.get("/v1/broadcasts?all=true&state=live&limit=1"),
    ]);
    nodes.sort((a, b) => b.role.localeCompare(a.role) || a.id.localeCompare(b.id, "en", { numeric: true }));
    showTiles(nodes, census);
    draw(nodes, picked());
    keyed(byId("nodes"), nodes, (node) => node.id, (node) => card(api, node, () => look()));
  });
}

const history = [];

function showTiles(nodes, { total, live }) {
  const sum = (role, of) => nodes.filter((node) => !role || node.role === role)
    .filter((node) => node.state !== "lost").reduce((all, node) => all + (node.load[of] ?? 0), 0);
  const push = sum("origin", "viewers");
  const hls = sum("edge", "viewers");
  history.push(push + hls);
  if (history.length > 100) history.shift();
  const up = nodes.filter((node) => node.state === "up").length;
  const away = nodes.filter((node) => node.state === "lost");
  const tiles = [
    { name: "Live broadcasts", value: number(total),
      about: total > live ? `${number(live)} public · ${number(total - live)} private` : "all of them public" },
    { name: "Viewers", value: number(push + hls), about: `${number(push)} push · ${number(hls)} HLS`, line: history },
    { name: "Sent to viewers", value: rate(sum("", "egress_bps")), about: `${sum("", "cpu").toFixed(2)} cores in use` },
    { name: "Nodes up", value: `${up} of ${nodes.length}`,
      about: away.length ? `lost: ${away.map((node) => node.id).join(", ")}` : "none lost",
      state: away.length || !nodes.length ? "lost" : "up" },
  ];
  keyed(byId("tiles"), tiles, (tile) => tile.name, (tile) => {
    const value = h("strong");
    const about = h("span", { class: "quiet" });
    const line = sparkline(110, 30);
    const element = h("div", { class: "tile" }, h("span", { class: "name" }, tile.name), value, about);
    if (tile.line) element.append(line.element);
    return { element, update(now) {
      text(value, now.value);
      text(about, now.about);
      if (now.state) element.dataset.state = now.state;
      if (now.line) line.update(now.line);
    } };
  });
}

/** A line of the last values, from nothing to their most. */
export function sparkline(wide, high) {
  const line = svg("polyline", { fill: "none" });
  const element = svg("svg", {
    class: "sparkline", viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, "aria-hidden": "true",
  }, line);
  return { element, update(values) {
    const most = Math.max(...values, 1);
    const drawn = values.length > 1 ? values : [...values, ...values];
    const step = wide / (drawn.length - 1);
    const at = (value, index) => `${(index * step).toFixed(1)},${(high - 2 - (value / most) * (high - 4)).toFixed(1)}`;
    line.setAttribute("points", drawn.map(at).join(" "));
  } };
}

const layers = {};

function draw(nodes, picked) {
  if (!layers.whole) {
    for (const name of ["grid", "links", "nodes"]) layers[name] = svg("g", { class: name });
    layers.whole = svg("svg", {
      viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": "Origins and edges, and who fetches from whom",
    }, ...["grid", "links", "nodes"].map((name) => layers[name]));
    layers.legend = h("figcaption", { class: "quiet" });
    byId("picture").append(layers.whole, layers.legend);
  }
  const { places, meridians, parallels, divide } = placed(nodes);
  layers.grid.replaceChildren(
    ...meridians.map(({ x }) => svg("line", { x1: x, x2: x, y1: 0, y2: divide ?? HIGH })),
    ...parallels.map(({ y }) => svg("line", { x1: 0, x2: WIDE, y1: y, y2: y })),
    ...meridians.map(({ x, label }) => svg("text", { x: x + 3, y: 11 }, label)),
    ...parallels.map(({ y, label }) => svg("text", { x: 3, y: y - 3 }, label)),
  );
  const drawn = links(nodes, picked);
  keyed(layers.links, drawn, ({ from, to }) => `${from} ${to}`, () => {
    const element = svg("path", { fill: "none" });
    return { element, update(link) {
      const [a, b] = [places.get(link.to), places.get(link.from)];
      const bend = Math.min(Math.hypot(b.x - a.x, b.y - a.y) * 0.12, 30);
      const lift = Math.abs(b.x - a.x) > Math.abs(b.y - a.y) ? bend : 0;
      element.setAttribute("d", `M${a.x},${a.y} Q${(a.x + b.x) / 2},${(a.y + b.y) / 2 - lift} ${b.x},${b.y}`);
      element.setAttribute("class", link.picked ? "picked" : "known");
    } };
  });
  keyed(layers.nodes, nodes, (node) => node.id, (node) => dot(node));
  function dot(node) {
    const size = node.role === "origin" ? 13 : 10;
    const round = 2 * Math.PI * (size + 5);
    const shape = node.role === "origin"
      ? svg("rect", { x: -size, y: -size, width: 2 * size, height: 2 * size, rx: 4, class: "body" })
      : svg("circle", { r: size, class: "body" });
    const track = svg("circle", { r: size + 5, class: "track" });
    const ring = svg("circle", { r: size + 5, class: "ring", "stroke-dasharray": `0 ${round}`, transform: "rotate(-90)" });
    const name = svg("text", { y: size + 20, class: "name" }, node.id);
    const about = svg("text", { y: size + 33, class: "about" });
    const hint = svg("title");
    const element = svg("g", { class: "node" }, hint, track, ring, shape, name, about);
    return { element, update(now) {
      const { x, y } = places.get(now.id);
      element.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      element.dataset.state = now.state;
      element.dataset.role = now.role;
      ring.setAttribute("stroke-dasharray", `${(fullness(now) * round).toFixed(1)} ${round}`);
      text(about, now.state === "up" ? some(now.load.viewers, "viewer", "viewers") : now.state);
      text(hint, `${now.role} ${now.id}, ${now.state}, ${some(now.load.viewers, "viewer", "viewers")}`);
    } };
  }
  text(layers.legend, nodes.length
    ? `Squares are origins, circles edges; the ring is how full they are.${drawn.some((link) => link.picked) ? " Bold: the picked broadcast." : ""}`
    : "No node has registered yet: start an origin and an edge with this control’s address.");
}

/** Between 0 and 1: of the viewers it takes, else of the cores one expects of it. */
function fullness({ load }) {
  const share = load.viewer_capacity ? load.viewers / load.viewer_capacity : load.cpu / 4;
  return Math.min(Math.max(share, 0), 1);
}

function card(api, node, look) {
  const state = h("span", { class: "badge" });
  const about = h("p", { class: "quiet where" });
  const progress = h("p", { class: "progress", role: "status", hidden: true });
  const bars = { viewers: bar("viewers"), cpu: bar("cores"), egress: bar("sent") };
  let now = node;
  const button = h("button", { type: "button", click: () => toggle() });
  const element = h("article", { class: "panel node-card", "data-node": node.id },
    h("h3", null, h("span", { class: "role" }, node.role), node.id, state),
    about, bars.viewers.element, bars.cpu.element, bars.egress.element, progress,
    h("div", { class: "row end" }, button));

  async function toggle() {
    const draining = now.remaining != null;
    const path = `/v1/nodes/${encodeURIComponent(now.id)}/drain`;
    if (!draining && !await confirmed(`Drain ${now.id}?`,
      now.role === "origin" ? "New broadcasts go to other origins. Those on it run until they end."
        : "New viewers go to other edges. Those on it stay.", "Drain")) return;
    button.disabled = true;
    try {
      await (draining ? api.delete(path) : api.post(path));
      say(draining ? `${now.id} takes arrivals again.` : `${now.id} gets no more arrivals.`);
    } catch (error) {
      say(error.message, "refused");
    } finally {
      button.disabled = false;
      look();
    }
  }

  return { element, update(fresh) {
    now = fresh;
    const { load, remaining } = now;
    element.dataset.state = now.state;
    state.dataset.state = now.state;
    text(state, now.state);
    const place = now.location ? ` · ${now.location.lat.toFixed(1)}, ${now.location.lon.toFixed(1)}` : "";
    const gateway = now.gateway_of ? ` · gateway of ${number(now.gateway_of)}` : "";
    text(about, `${now.version}${place} · ${some(load.broadcasts, "broadcast", "broadcasts")}${gateway} · ${now.address}`);
    bars.viewers.update(load.viewers, load.viewer_capacity, load.viewer_capacity
      ? `${number(load.viewers)} of ${number(load.viewer_capacity)}` : number(load.viewers));
    bars.cpu.update(load.cpu, 4, load.cpu.toFixed(2));
    bars.egress.update(load.egress_bps, 1e9, rate(load.egress_bps));
    text(button, remaining ? "Undrain" : "Drain");
    progress.hidden = !remaining;
    if (remaining) {
      progress.dataset.empty = remaining.empty;
      const left = [some(remaining.viewers, "viewer", "viewers")];
      if (remaining.broadcasts) left.push(some(remaining.broadcasts, "broadcast", "broadcasts"));
      text(progress, remaining.empty ? "Empty now: it can be stopped." : `Draining: ${left.join(" and ")} left.`);
    }
  } };
}

function bar(name) {
  const value = h("span", { class: "value" });
  const full = h("i");
  const element = h("div", { class: "bar" }, h("span", null, name), h("b", { "aria-hidden": "true" }, full), value);
  return { element, update(amount, most, words) {
    full.style.width = `${Math.min(100, (amount / (most || Math.max(amount, 100))) * 100).toFixed(1)}%`;
    text(value, words);
  } };
}
