// The delay by stage as bars, push beside HLS, with the numbers that the paper
// on Periscope measured in 2016 as a thin line below each.

import { h, keyed, seconds, some, text } from "./console-dom.js";

/** In the order of a frame's way. */
const STAGES = ["upload", "chunking", "transfer", "polling", "last_mile", "buffering"];
const NAMES = { last_mile: "last mile" };
const PERCENTILES = ["p50", "p95", "p99"];

/** Seconds. Upload and last mile of HLS are known together: what remains of the whole. */
const PAPER = {
  hls: { total: 11.7, stages: { upload: 0.3, chunking: 3, transfer: 0.3, polling: 1.2, buffering: 6.9 } },
  push: { total: 1.4, stages: { whole: 1.4 } },
};

const stagesOf = (tier) => tier?.stages ?? tier ?? {};

export function delayPanel() {
  let percentile = "p50";
  let last = null;
  const buttons = PERCENTILES.map((name) => h("button", {
    type: "button", "aria-pressed": String(name === percentile), click: () => {
      percentile = name;
      for (const button of buttons) button.setAttribute("aria-pressed", button.textContent === name);
      update(last);
    },
  }, name));
  const bars = h("div", { class: "delays" });
  const none = h("p", { class: "quiet" }, "No delay is known yet: it is measured while somebody watches.");
  const numbers = h("tbody");
  const legend = h("table", { class: "stages" },
    h("thead", null, h("tr", null, ...["Stage", "Push", "HLS", "paper’s HLS"].map((name) => h("th", { scope: "col" }, name)))),
    numbers);
  const element = h("section", { "aria-label": "Delay" },
    h("h3", { class: "delay-title" }, "Delay by stage", h("span", { class: "row", role: "group", "aria-label": "Percentile" }, ...buttons)),
    none, bars, legend);

  function update(delay) {
    last = delay;
    const tiers = ["push", "hls"].map((name) => ({
      name, stages: read(delay?.[name], percentile), whole: delay?.[name]?.total?.[percentile],
    }));
    const known = tiers.some(({ stages }) => stages.length);
    none.hidden = known;
    const total = ({ stages }) => stages.reduce((all, { value }) => all + value, 0);
    const most = Math.max(...tiers.map(total), PAPER.hls.total);
    const lines = tiers.flatMap((tier) => [
      { key: tier.name, name: tier.name === "push" ? "Push" : "HLS", parts: tier.stages, total: total(tier), whole: tier.whole, most, measured: true },
      { key: `${tier.name}-paper`, name: "paper", most, total: PAPER[tier.name].total,
        parts: Object.entries(PAPER[tier.name].stages).map(([stage, value]) => ({ stage, value })) },
    ]);
    keyed(bars, lines, (line) => line.key, row);
    const values = tiers.map(({ stages }) => new Map(stages.map(({ stage, value }) => [stage, value])));
    keyed(numbers, STAGES.map((stage) => ({ stage, values: values.map((tier) => tier.get(stage)) })), ({ stage }) => stage, numbersOf);
  }

  update(null);
  return { element, update };
}

/** What is known of a tier's stages, in order. */
function read(tier, percentile) {
  return STAGES.map((stage) => ({ stage, ...stagesOf(tier)[stage] }))
    .filter((one) => Number.isFinite(one[percentile]) && one.count !== 0)
    .map((one) => ({ stage: one.stage, value: Math.max(one[percentile], 0), count: one.count }));
}

function numbersOf({ stage }) {
  const cells = [h("td"), h("td")];
  const element = h("tr", null, h("th", { scope: "row", "data-stage": stage }, NAMES[stage] ?? stage),
    ...cells, h("td", { class: "quiet" }, stage in PAPER.hls.stages ? seconds(PAPER.hls.stages[stage]) : "in upload"));
  return { element, update({ values }) {
    cells.forEach((cell, index) => text(cell, values[index] == null ? "–" : seconds(values[index])));
  } };
}

function row(first) {
  const bar = h("div", { class: "stack" });
  const total = h("span", { class: "total" });
  const element = h("div", { class: first.measured ? "delay" : "delay paper", role: "img" },
    h("span", { class: "tier" }, first.name), bar, total);
  return { element, update(now) {
    // Percentiles do not add up: what was measured from end to end is said as it is.
    const whole = now.whole ?? (now.parts.length ? now.total : null);
    text(total, whole == null ? "–" : seconds(whole));
    total.title = now.whole == null ? "the stages together" : "measured from camera to screen";
    element.setAttribute("aria-label", `${now.measured ? now.name : `paper, ${now.key.split("-")[0]}`}: ${
      now.parts.length ? now.parts.map(words).join(", ") : "not known"}`);
    keyed(bar, now.parts, (part) => part.stage, (part) => {
      const label = h("span");
      const piece = h("i", { "data-stage": part.stage }, label);
      return { element: piece, update(fresh) {
        const share = (fresh.value / now.most) * 100;
        piece.style.width = `${share.toFixed(2)}%`;
        piece.title = words(fresh);
        text(label, now.measured && share > 9 ? seconds(fresh.value) : "");
      } };
    });
  } };
}

const words = ({ stage, value, count }) =>
  `${NAMES[stage] ?? stage} ${seconds(value)}${count ? ` (${some(count, "measurement", "measurements")})` : ""}`;
