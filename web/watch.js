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

// Parts as they come, where the browser can be fed them; else whatever it plays
// by itself. What is shown is as far behind as the list asks for (PART-HOLD-BACK),
// and plays a little faster while it is further behind than that.
const hls = window.Hls?.isSupported() ? new Hls({
  lowLatencyMode: true, maxLiveSyncPlaybackRate: 1.2, liveSyncOnStallIncrease: 0.2,
  backBufferLength: 30, enableWorker: false,
}) : null;
// For whoever debugs in the browser's console.
window.spyglass = { hls, errors: [] };

hls?.on(Hls.Events.ERROR, (_, { type, details, fatal }) => {
  window.spyglass.errors.push({ type, details, fatal });
  if (window.spyglass.errors.length > 100) window.spyglass.errors.shift();
  if (!fatal || element("state").dataset.state === "ended") return;
  if (type === Hls.ErrorTypes.MEDIA_ERROR) {
    hls.recoverMediaError();
  } else {
    // Before the first chunk, and after a hiccup, the edge has nothing to play yet.
    setTimeout(() => joined && load(joined.urls.hls), 2000);
  }
});

function load(url) {
  if (hls) {
    hls.loadSource(url);
    if (hls.media !== video) hls.attachMedia(video);
  } else {
    video.src = url;
  }
  video.play().catch(() => {});
}

function play(url) {
  offerOtherPlayers(url);
  if (!hls && !video.canPlayType("application/vnd.apple.mpegurl")) {
    video.hidden = true;
    say("This browser cannot play HLS. Use another one or another player:");
    return;
  }
  load(url);
}

// The same for a browser that plays by itself.
video.addEventListener("error", () => {
  if (hls || !joined || element("state").dataset.state === "ended") return;
  setTimeout(() => load(joined.urls.hls), 2000);
});

// Where the broadcaster was away there is nothing to play: go on behind it.
function overHole() {
  const { buffered, currentTime } = video;
  for (let i = 0; i < buffered.length; i += 1) {
    if (buffered.start(i) > currentTime) {
      video.currentTime = buffered.start(i) + 0.05;
      return;
    }
  }
}

// A dead edge raises no error: the picture just stops. Chunks and numbers are
// the same on every edge, so the next one goes on where this one stopped.
let watched = { time: 0, since: Date.now(), turn: 0 };
setInterval(() => {
  if (!joined || video.paused || video.hidden || video.currentTime !== watched.time) {
    watched = { ...watched, time: video.currentTime, since: Date.now() };
    return;
  }
  if (Date.now() - watched.since > 1500) overHole();
  if (element("state").dataset.state !== "live" || Date.now() - watched.since < 8000) return;
  const urls = [joined.urls.hls, ...joined.alternates.map((edge) => edge.hls)];
  watched = { time: 0, since: Date.now(), turn: watched.turn + 1 };
  if (watched.turn % urls.length === 0) {
    join();
  } else {
    load(urls[watched.turn % urls.length]);
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
