// Joins as a viewer, plays from the nearest edge, and gives the place back.
"use strict";

const id = location.pathname.split("/").filter(Boolean).pop();
const api = `/v1/broadcasts/${encodeURIComponent(id)}`;
const video = document.getElementById("video");
const element = (name) => document.getElementById(name);
const words = {
  created: "Not live yet", live: "Live", interrupted: "Interrupted, waiting for the broadcaster",
  ended: "Ended",
};
let joined = null;

function say(text) {
  const message = element("message");
  message.textContent = text;
  message.hidden = !text;
}

function showState(state) {
  const shown = element("state");
  if (shown.dataset.state === state) return;
  shown.dataset.state = state;
  shown.textContent = words[state] ?? state;
}

async function look() {
  try {
    const headers = joined ? { Authorization: `Bearer ${joined.token}` } : {};
    const answer = await fetch(api, { headers });
    if (answer.ok) {
      const broadcast = await answer.json();
      const title = broadcast.title || "Untitled";
      element("title").textContent = title;
      document.title = `${title} · Spyglass`;
      showState(broadcast.state);
      const count = broadcast.viewers.total;
      element("viewers").textContent = count === 1 ? "· 1 viewer" : `· ${count} viewers`;
      if (broadcast.state === "ended") return;
    }
  } catch {
    // Control may be away; what plays goes on without it.
  }
  setTimeout(look, 5000);
}

function offerOtherPlayers(url) {
  element("url").value = url;
  element("command").textContent = `ffplay "${url}"`;
  element("elsewhere").hidden = false;
}

function play(url) {
  offerOtherPlayers(url);
  if (!video.canPlayType("application/vnd.apple.mpegurl")) {
    video.hidden = true;
    say("This browser cannot play HLS by itself. Safari and recent Chrome can; or use another player:");
    return;
  }
  video.src = url;
  video.play().catch(() => {});
}

// Before the first chunk, and after a hiccup, the edge has nothing to play yet.
video.addEventListener("error", () => {
  if (!joined || element("state").dataset.state === "ended") return;
  setTimeout(() => {
    video.src = joined.urls.hls;
    video.play().catch(() => {});
  }, 2000);
});

// A dead edge raises no error: the picture just stops. Chunks and numbers are
// the same on every edge, so the next one goes on where this one stopped.
let watched = { time: 0, since: Date.now(), turn: 0 };
setInterval(() => {
  const waiting = element("state").dataset.state !== "live" || video.paused || video.hidden;
  if (!joined || waiting || video.currentTime !== watched.time) {
    watched = { ...watched, time: video.currentTime, since: Date.now() };
    return;
  }
  if (Date.now() - watched.since < 8000) return;
  const urls = [joined.urls.hls, ...joined.alternates.map((edge) => edge.hls)];
  watched = { time: 0, since: Date.now(), turn: watched.turn + 1 };
  if (watched.turn % urls.length === 0) {
    join();
  } else {
    video.src = urls[watched.turn % urls.length];
    video.play().catch(() => {});
  }
}, 1000);

async function join() {
  let answer;
  try {
    answer = await fetch(`${api}/viewers`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: '{"tier":"hls"}',
    });
  } catch {
    say("Control does not answer. Trying again…");
    setTimeout(join, 3000);
    return;
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) {
    joined = body;
    say("");
    play(joined.urls.hls);
    look();
  } else if (answer.status === 410) {
    video.hidden = true;
    say("This broadcast has ended.");
    look();
  } else if (answer.status === 404) {
    video.hidden = true;
    showState("Not found");
    say("There is no such broadcast, or it is not for everybody.");
  } else {
    say(`${body.detail ?? "Joining failed."} Trying again…`);
    setTimeout(join, 3000);
  }
}

element("copy").addEventListener("click", async () => {
  const field = element("url");
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    element("copy").textContent = "Copied";
  } catch {
    // Selected: the keyboard copies it.
  }
});

addEventListener("pagehide", (event) => {
  if (!joined || event.persisted) return;
  fetch(`${api}/viewers/${joined.viewer}`, {
    method: "DELETE", keepalive: true, headers: { Authorization: `Bearer ${joined.token}` },
  });
});

join();
