// Lists what is live, and looks again every five seconds.
"use strict";

const list = document.getElementById("broadcasts");
const status = document.getElementById("status");

function card(broadcast) {
  const title = document.createElement("strong");
  title.textContent = broadcast.title || "Untitled";
  const viewers = document.createElement("span");
  const count = broadcast.viewers.total;
  viewers.textContent = count === 1 ? "1 viewer" : `${count} viewers`;
  const link = document.createElement("a");
  link.href = `/watch/${broadcast.id}`;
  link.append(title, viewers);
  const item = document.createElement("li");
  item.append(link);
  return item;
}

function say(text) {
  // Said again only when it differs, so that screen readers are not kept busy.
  if (status.textContent !== text) status.textContent = text;
}

async function look() {
  try {
    const answer = await fetch("/v1/broadcasts?sample=50");
    if (!answer.ok) throw new Error(answer.status);
    const { broadcasts, live } = await answer.json();
    broadcasts.sort((a, b) => (a.started_at < b.started_at ? 1 : -1));
    const focused = document.activeElement?.getAttribute("href");
    list.replaceChildren(...broadcasts.map(card));
    if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    if (live === 0) say("Nobody is live at the moment. This page keeps looking.");
    else if (live > broadcasts.length) say(`${live} broadcasts are live; here are ${broadcasts.length}.`);
    else say(live === 1 ? "1 broadcast is live." : `${live} broadcasts are live.`);
  } catch {
    say("Control does not answer. Trying again…");
  }
  setTimeout(look, 5000);
}

look();
