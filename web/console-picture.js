// Where each node stands in the picture, and which lines are drawn. Numbers in,
// numbers out: nothing here touches the page.

/** Size of the picture. */
export const WIDE = 760;
export const HIGH = 340;
const EDGE = 62;
/** Nodes closer than this are moved apart. */
const APART = 86;

/**
 * `nodes` of the API → Map of id → { x, y }, and what of the map is behind them.
 * With a location they stand on a map that is as large as it must be; the others
 * in a row below. Without any location origins stand above edges.
 */
export function placed(nodes) {
  const located = nodes.filter((node) => node.location);
  const others = nodes.filter((node) => !node.location);
  if (!located.length) {
    const origins = nodes.filter((node) => node.role === "origin");
    const edges = nodes.filter((node) => node.role !== "origin");
    const places = new Map();
    const rows = [...rowsOf(origins), ...rowsOf(edges)];
    rows.forEach((row, index) => inRow(row, (index + 0.5) * (HIGH / rows.length) - 6, places));
    return { places, meridians: [], parallels: [] };
  }
  const below = others.length ? 92 : 0;
  const box = around(located.map((node) => node.location), (HIGH - below) / WIDE);
  const x = (lon) => EDGE + ((lon - box.west) / (box.east - box.west)) * (WIDE - 2 * EDGE);
  const y = (lat) => EDGE * 0.8 + ((box.north - lat) / (box.north - box.south)) * (HIGH - below - 1.9 * EDGE);
  const places = new Map();
  for (const { id, location } of located) places.set(id, { x: x(location.lon), y: y(location.lat) });
  moveApart([...places.values()], HIGH - below);
  inRow(others, HIGH - 58, places);
  const step = stepOf(box.east - box.west);
  return {
    places,
    meridians: lines(box.west, box.east, step).map((lon) => ({ x: x(lon), label: degrees(lon, "E", "W") })),
    parallels: lines(box.south, box.north, step).map((lat) => ({ y: y(lat), label: degrees(lat, "N", "S") })),
    divide: others.length ? HIGH - below : null,
  };
}

const rowsOf = (nodes) => {
  const rows = [];
  for (let at = 0; at < nodes.length; at += 10) rows.push(nodes.slice(at, at + 10));
  return rows;
};

function inRow(nodes, y, places) {
  nodes.forEach(({ id }, index) => places.set(id, { x: ((index + 0.5) * WIDE) / nodes.length, y }));
}

/** The part of the world that holds all of them, not smaller than a country. */
function around(locations, shape) {
  const lats = locations.map(({ lat }) => lat);
  const lons = locations.map(({ lon }) => lon);
  const middle = { lat: (Math.min(...lats) + Math.max(...lats)) / 2, lon: (Math.min(...lons) + Math.max(...lons)) / 2 };
  let high = Math.max(Math.max(...lats) - Math.min(...lats), 6);
  let wide = Math.max(Math.max(...lons) - Math.min(...lons), 10);
  // A degree is as long to the right as upwards, near enough for a picture.
  wide = Math.max(wide, (high / shape) * 0.8);
  high = Math.max(high, wide * shape * 0.5);
  return {
    west: middle.lon - wide / 2, east: middle.lon + wide / 2,
    south: middle.lat - high / 2, north: middle.lat + high / 2,
  };
}

const stepOf = (width) => [1, 2, 5, 10, 15, 30, 45, 60].find((step) => width / step <= 8) ?? 90;

function lines(from, to, step) {
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

const degrees = (value, over, under) => `${Math.abs(value)}°${value > 0 ? over : value < 0 ? under : ""}`;

/** Many nodes of one city are still seen one by one. */
function moveApart(points, high) {
  for (let round = 0; round < 40; round += 1) {
    let moved = false;
    points.forEach((one, index) => {
      for (const other of points.slice(index + 1)) {
        let [dx, dy] = [other.x - one.x, other.y - one.y];
        const distance = Math.hypot(dx, dy);
        if (distance >= APART) continue;
        moved = true;
        if (distance < 1) [dx, dy] = [Math.cos(index * 2.4), Math.sin(index * 2.4)];
        const push = (APART - distance) / 2 / Math.max(Math.hypot(dx, dy), 1e-6);
        one.x -= dx * push; one.y -= dy * push;
        other.x += dx * push; other.y += dy * push;
      }
    });
    for (const point of points) {
      point.x = Math.min(Math.max(point.x, EDGE), WIDE - EDGE);
      point.y = Math.min(Math.max(point.y, EDGE * 0.6), high - EDGE * 1.1);
    }
    if (!moved) return;
  }
}

/**
 * Who fetches from whom, as far as it is known: every edge from the only origin
 * there is; and of the picked broadcast the edges where somebody watches, through
 * its gateway when they fetch through one.
 */
export function links(nodes, picked) {
  const known = new Map();
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const add = (from, to, about) => {
    if (from !== to && byId.has(from) && byId.has(to)) known.set(`${from} ${to}`, { from, to, picked: about });
  };
  const there = (role) => nodes.filter((node) => node.role === role && node.state !== "lost");
  const origins = there("origin");
  if (origins.length === 1) for (const edge of there("edge")) add(edge.id, origins[0].id, false);
  for (const edge of picked?.edges ?? []) {
    const gateway = byId.get(edge)?.load.through_gateway > 0 && byId.has(picked.gateway) ? picked.gateway : null;
    if (gateway) add(edge, gateway, true);
    add(gateway ?? edge, picked.origin, true);
  }
  return [...known.values()];
}
