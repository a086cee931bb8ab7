// Lists what is live, and looks again every five seconds while somebody looks.
"use strict";

const list = document.getElementById("broadcasts");
const status = document.getElementById("status");
/** Cards by id: they stay the same elements, so that focus stays where it is. */
const cards = new Map();

function say(text) {
  // Said again only when it differs, so that screen readers are not kept busy.
  if (status.textContent !== text) status.textContent = text;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function ago(when) {
  const minutes = Math.floor((Date.now() - Date.parse(when)) / 60000);
  if (!(minutes >= 1)) return "just begun";
  return minutes < 60 ? `for ${minutes} min` : `for ${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function card({ id }) {
  const [title, state, about] = ["strong", "em", "span"].map((tag) => document.createElement(tag));
  const link = document.createElement("a");
  link.href = `/watch/${id}`;
  link.append(title, state, about);
  const element = document.createElement("li");
  element.append(link);
  return { element, update(now) {
    const count = now.viewers.total;
    put(title, now.title || "Untitled");
    put(state, now.state === "live" ? "Live" : "Interrupted");
    state.dataset.state = now.state;
    put(about, `${count === 1 ? "1 viewer" : `${count} viewers`} · ${ago(now.started_at)}`);
  } };
}

/** What is shown stays in its place; what is new comes first. */
function show(broadcasts) {
  const ids = new Set(broadcasts.map(({ id }) => id));
  for (const [id, { element }] of cards) {
    if (ids.has(id)) continue;
    element.remove();
    cards.delete(id);
  }
  broadcasts.sort((a, b) => (a.started_at < b.started_at ? -1 : 1));
  for (const broadcast of broadcasts) {
    if (!cards.has(broadcast.id)) {
      cards.set(broadcast.id, card(broadcast));
      list.prepend(cards.get(broadcast.id).element);
    }
    cards.get(broadcast.id).update(broadcast);
  }
}

async function look() {
  let wait = 5000;
  try {
    const answer = await fetch("/v1/broadcasts?sample=50", { signal: AbortSignal.timeout(10000) });
    const body = await answer.json();
    if (!answer.ok) {
      wait = Math.max(wait, (Number(answer.headers.get("Retry-After")) || 0) * 1000);
      say(body.detail ?? "Control cannot say what is live. Trying again…");
    } else {
      const { broadcasts, live } = body;
      show(broadcasts);
      if (live === 0) say("Nobody is live at the moment. This page keeps looking.");
      else if (live > broadcasts.length) say(`${live} broadcasts are live; here are ${broadcasts.length}.`);
      else say(live === 1 ? "1 broadcast is live." : `${live} broadcasts are live.`);
    }
  } catch {
    say("Control does not answer. Trying again…");
  }
  setTimeout(again, wait);
}

/** Nobody looks at a hidden page: it looks again when it is shown. */
function again() {
  if (!document.hidden) look();
  else document.addEventListener("visibilitychange", again, { once: true });
}

look();
