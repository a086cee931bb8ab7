// Joins as a viewer, plays from the nearest edge, says how it goes, tells control
// what it measured, and gives the place back.

import { Player } from "./watch-player.js";

const id = location.pathname.split("/").filter(Boolean).pop();
const api = `/v1/broadcasts/${encodeURIComponent(id)}`;
const element = (name) => document.getElementById(name);
const video = element("video");
const words = {
  created: "Not live yet", live: "Live", interrupted: "Interrupted, waiting for the broadcaster",
  ended: "Ended", unknown: "No such broadcast",
};
/** An edge whose picture stands for so long is left. */
const STANDING = 8000;

let joined = null;
/** There is none of this id: ids are not given twice, so nothing will come. */
let nothing = false;
/** Of the edges that were offered, the one that plays. */
let turn = 0;
/** How much control's clock is ahead, in milliseconds, once that is known. */
let ahead = 0;

const player = new Player(video, { refused });
// For whoever debugs in the browser's console.
window.spyglass = player;

function put(name, text) {
  // Said again only when it differs, so that screen readers are not kept busy.
  if (element(name).textContent !== text) element(name).textContent = text;
}

function say(text, offer = false) {
  put("message-text", text);
  element("message").hidden = !text;
  element("rejoin").hidden = !offer;
}

function showState(state) {
  element("state").dataset.state = state;
  put("state", words[state] ?? state);
}

const state = () => element("state").dataset.state;

function headers() {
  return joined ? { Authorization: `Bearer ${joined.token}` } : {};
}

/** What is known of the broadcast, every five seconds until it has ended. */
async function look() {
  if (nothing) return;
  try {
    const answer = await fetch(api, { headers: headers(), signal: AbortSignal.timeout(10000) });
    if (answer.ok) {
      const broadcast = await answer.json();
      const title = broadcast.title || "Untitled";
      put("title", title);
      document.title = `${title} · Spyglass`;
      showState(broadcast.state);
      const { total, push, hls, anonymous_estimate: others } = broadcast.viewers;
      put("viewers", `${total} joined: ${push} push, ${hls} HLS${others ? `; about ${others} more` : ""}`);
      if (broadcast.state === "ended") {
        for (const name of ["facts", "sound", "elsewhere"]) element(name).hidden = true;
        say("This broadcast has ended.");
        return;
      }
      if (broadcast.state === "created") say("The broadcaster has not begun. This page waits.");
      else if (/has not begun/.test(element("message-text").textContent)) say("");
    }
  } catch {
    // Control may be away; what plays goes on without it.
  }
  setTimeout(look, 5000);
}

/** Edges in the order in which they are tried. */
const edges = () => [
  { id: joined.edge?.id, km: joined.edge?.distance_km, hls: joined.urls.hls }, ...joined.alternates,
];

function play() {
  const [{ hls: url }] = edges();
  element("url").value = url;
  element("command").textContent = `ffplay "${url}"`;
  element("elsewhere").hidden = false;
  if (!player.able) {
    video.hidden = true;
    say("This browser cannot play HLS. Use another one or another player:");
    return;
  }
  turn = 0;
  player.load(url);
}

/** The edge refuses: a kick, a token that is over, or the end. */
function refused(status) {
  player.stop();
  joined = null;
  if (status === 410 || state() === "ended") say("This broadcast has ended.");
  else say("The edge does not let you watch any more: you were removed, or your place is over.", true);
}

// Chunks and numbers are the same on every edge, so the next one goes on where
// this one stopped.
setInterval(() => {
  if (!joined || !player.url) return;
  const standing = player.standing();
  if (state() === "live" && standing > STANDING) {
    player.watched.since = Date.now();
    turn = (turn + 1) % edges().length;
    if (turn === 0) join();
    else player.load(edges()[turn].hls);
  }
  show(standing);
}, 1000);

function show(standing) {
  const behind = player.behind(ahead);
  const { id: edge, km } = edges()[turn];
  element("facts").hidden = state() === "ended" || (!video.videoWidth && behind == null);
  put("behind", behind == null ? "–" : standing > 2500 ? `${behind.toFixed(1)} s, waiting` : `${behind.toFixed(1)} s`);
  put("tier", player.inParts ? "HLS, part by part" : "HLS, chunk by chunk");
  put("edge", `${edge ?? "–"}${km == null ? "" : `, ${Math.round(km)} km`}`);
  put("size", video.videoWidth ? `${video.videoWidth} × ${video.videoHeight}` : "sound only");
}

/** Tells control how long media waited here, and learns its clock. */
async function report() {
  let wait = 10;
  const samples = joined && player.url ? player.take() : [];
  if (samples.length) {
    try {
      const asked = Date.now();
      const answer = await fetch(`${api}/viewers/${joined.viewer}/delay`, {
        method: "POST", headers: { ...headers(), "Content-Type": "application/json" },
        body: JSON.stringify({ tier: "hls", samples }), signal: AbortSignal.timeout(10000),
      });
      if (answer.ok) {
        const { at_ms: at, every_seconds: every } = await answer.json();
        ahead = at - (asked + Date.now()) / 2;
        wait = Math.max(wait, every);
      }
    } catch {
      // Nothing depends on it.
    }
  }
  setTimeout(report, wait * 1000);
}

async function join() {
  let answer;
  try {
    answer = await fetch(`${api}/viewers`, {
      method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: '{"tier":"hls"}',
      signal: AbortSignal.timeout(10000),
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
    play();
  } else if (answer.status === 401 && joined) {
    // The place is over: another one, as somebody new.
    joined = null;
    setTimeout(join, 1000);
  } else if (answer.status === 410) {
    video.hidden = !joined;
    showState("ended");
    say("This broadcast has ended.");
  } else if (answer.status === 404 && joined) {
    // It was there: control was started again and will hear of it from its origin.
    say("Control does not know this broadcast at the moment. Trying again…");
    setTimeout(join, 5000);
  } else if (answer.status === 404) {
    nothing = true;
    video.hidden = true;
    showState("unknown");
    put("title", "No such broadcast");
    document.title = "No such broadcast · Spyglass";
    say("There is no broadcast at this address, or it is private and not for everybody. Check the address, or see what is live on the first page.");
  } else if (answer.status === 403) {
    say(body.detail ?? "You may not watch this broadcast.");
  } else {
    say(`${body.detail ?? "Joining failed."} Trying again…`);
    setTimeout(join, Math.max(3, Number(answer.headers.get("Retry-After")) || 0) * 1000);
  }
}

element("rejoin").addEventListener("click", () => {
  joined = null;
  say("");
  join();
});

element("sound").addEventListener("click", () => {
  video.muted = false;
  video.play().catch(() => {});
});
const heard = () => { element("sound").hidden = !video.muted || state() === "ended"; };
video.addEventListener("volumechange", heard);

element("copy").addEventListener("click", async () => {
  const field = element("url");
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    put("copy", "Copied");
  } catch {
    // Selected: the keyboard copies it.
  }
});

addEventListener("pagehide", (event) => {
  if (!joined || event.persisted) return;
  fetch(`${api}/viewers/${joined.viewer}`, { method: "DELETE", keepalive: true, headers: headers() });
});

heard();
join().then(look);
report();
