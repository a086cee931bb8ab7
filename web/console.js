// The operator's console: signing in and out, and which view is shown. What each
// view shows lives in its own console-*.js.

import { Api, Refused, every, forgetKey, keepKey, storedKey } from "./console-api.js";
import { openBroadcasts } from "./console-broadcasts.js";
import { byId, text } from "./console-dom.js";
import { openEvents } from "./console-events.js";
import { openAudit, openKeys, openUsers, openWebhooks } from "./console-ledgers.js";
import { openSystem } from "./console-system.js";

/** Why somebody was signed out, for the page that comes next. */
const WHY = "spyglass-signed-out";

let api = null;
let ledgers = {};

function complain(words) {
  const line = byId("sign-in-error");
  text(line, words);
  line.hidden = !words;
}

function words(error) {
  if (error.status === 401) return "This is not the operator key.";
  if (error.status === 403) return "This is a user’s token; the console needs the operator key.";
  return error.message;
}

async function signIn(key) {
  complain("");
  const tried = new Api(key);
  try {
    await tried.get("/v1/nodes");
  } catch (error) {
    // A key that may be right is kept while control is away or busy.
    if (error.status === 401 || error.status === 403) forgetKey();
    complain(words(error));
    return;
  }
  keepKey(key);
  byId("key").value = "";
  api = new Api(key, {
    refused: () => signOut("The operator key is not this one any more. Sign in again."),
    heard: pulse,
  });
  open();
}

function signOut(why = "") {
  api?.close();
  forgetKey();
  if (why) sessionStorage.setItem(WHY, why);
  // Everything that was shown goes with the page.
  location.reload();
}

function pulse(answered) {
  const line = byId("pulse");
  line.dataset.state = answered ? "up" : "lost";
  text(line, answered ? "up to date" : "control does not answer, trying again…");
}

function open() {
  for (const id of ["desk", "tabs", "pulse", "sign-out"]) byId(id).hidden = false;
  byId("sign-in").hidden = true;
  pulse(true);
  const picked = openBroadcasts(api);
  openSystem(api, picked);
  openEvents(api);
  ledgers = {
    audit: openAudit(api), keys: openKeys(api), webhooks: openWebhooks(api), users: openUsers(api),
  };
  // Ledgers are looked at only while they are shown.
  ledgers.now = every(5, api.over.signal, async () => ledgers[view()]?.());
  show();
}

/** `#broadcast=…` is the overview with something picked. */
function view() {
  const name = location.hash.slice(1).split("=")[0];
  return byId(`view-${name}`) ? name : "overview";
}

function show() {
  const now = view();
  const changed = byId(`view-${now}`).hidden;
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== now;
  if (changed) scrollTo(0, 0);
  for (const link of byId("tabs").children) {
    if (link.hash === `#${now}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  ledgers.now?.();
}

addEventListener("hashchange", show);
byId("sign-out").addEventListener("click", () => signOut());
byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter ?? event.target.querySelector("button");
  button.disabled = true;
  try {
    await signIn(byId("key").value.trim());
  } catch (error) {
    if (!(error instanceof Refused)) complain("This is no key: a key is plain letters and digits.");
  } finally {
    button.disabled = false;
  }
});

complain(sessionStorage.getItem(WHY) ?? "");
sessionStorage.removeItem(WHY);
if (storedKey()) signIn(storedKey());
