// What is written down: the audit log, keys, webhooks, users. Each `open…`
// answers a function that looks again.

import { badge, byId, confirmed, h, keyed, moment, number, say, secret, stamp, table, text } from "./console-dom.js";

/** Does it, says so, and looks again; or says why not. */
async function act(send, done, look) {
  try {
    const answer = await send();
    if (done) say(done);
    await look();
    return answer;
  } catch (error) {
    say(error.message, "refused");
    return null;
  }
}

/** Rows that do not change while they have the same key. */
const fixed = (...cells) => ({
  element: h("tr", null, ...cells.map((cell) => h("td", cell.tagName === "BUTTON" ? { class: "end" } : null, cell))),
  update() {},
});

const code = (value) => h("code", null, value);
const nothing = (table_, colspan, words) =>
  table_.body.append(h("tr", { class: "none" }, h("td", { colspan, class: "quiet" }, words)));

export function openAudit(api) {
  const { whole, body } = table("Audit log", "When", "Who", "Did", "To", "From", "Outcome", "Control");
  byId("audit-table").append(whole);
  /** Entries that are shown, the oldest first; rows that one look adds at most. */
  let entries = [];
  const [page, most] = [100, 2000];

  /** The sequence of the last entry, found in a few small questions. */
  async function newest() {
    const first = await next(0);
    if (first == null) return 0;
    let [low, step] = [first, 1024];
    while (await next(low + step) != null) { low += step; step *= 2; }
    let high = low + step;
    while (low + 1 < high) {
      const middle = Math.floor((low + high) / 2);
      const found = await next(middle);
      if (found == null) high = middle;
      else low = found;
    }
    return low;
  }
  async function next(after) {
    const { entries: [entry] } = await api.get(`/v1/audit?limit=1&after=${after}`);
    return entry?.sequence ?? null;
  }

  function show() {
    keyed(body, [...entries].reverse(), (entry) => entry.sequence, (entry) => fixed(
      stamp(entry.at), entry.actor === "operator" ? "operator" : code(entry.actor), entry.action,
      entry.object ? code(entry.object) : "–", entry.address,
      h("span", { class: "badge", "data-state": entry.outcome >= 400 ? "lost" : "up" }, `${entry.outcome ?? "?"}`), entry.control,
    ));
  }

  byId("audit-older").addEventListener("click", () => act(async () => {
    const [oldest] = entries;
    if (!oldest) return;
    // Gaps mean nothing, so a page's worth of numbers may hold fewer entries.
    const from = Math.max(0, oldest.sequence - 1 - page);
    const { entries: more } = await api.get(`/v1/audit?limit=${page}&after=${from}`);
    const fresh = more.filter((entry) => entry.sequence < oldest.sequence);
    entries = [...fresh, ...entries].slice(0, most);
    byId("audit-older").disabled = from === 0 || entries.length >= most;
    show();
  }, "", async () => {}));

  return async () => {
    const last = entries.at(-1)?.sequence ?? Math.max(0, await newest() - page);
    const { entries: fresh } = await api.get(`/v1/audit?limit=1000&after=${last}`);
    entries = [...entries, ...fresh].slice(-most);
    show();
  };
}

export function openKeys(api) {
  const { whole, body } = table("Keys", "Key", "State", "Made", "Signs from", "Dropped", "");
  byId("keys-table").append(whole);
  async function look() {
    const { keys } = await api.get("/v1/keys");
    keyed(body, keys, (key) => `${key.id} ${key.state} ${key.until}`, (key) => fixed(
      code(key.id), badge(key.state), stamp(key.created_at), key.not_before ? stamp(key.not_before) : "–",
      key.until ? stamp(key.until) : "–",
      h("button", { type: "button", class: "danger", click: async () => {
        const sure = await confirmed(`Revoke ${key.id}?`,
          "Every broadcaster and viewer whose token it signed is cut off and must come again.", "Revoke");
        if (sure) act(() => api.delete(`/v1/keys/${encodeURIComponent(key.id)}`), "The key opens nothing any more.", look);
      } }, "Revoke"),
    ));
  }
  byId("rotate").addEventListener("click", async () => {
    const sure = await confirmed("Rotate the keys?",
      "A new key signs in 10 s. Tokens of the old one are good until they are over: nobody is cut off.", "Rotate");
    if (sure) act(() => api.post("/v1/keys/rotate"), "A new key signs in 10 s.", look);
  });
  return look;
}

export function openWebhooks(api) {
  const shown = table("Webhooks", "Address", "State", "Events", "Delivered", "Given up", "Last delivery", "");
  byId("webhooks-table").append(shown.whole);
  async function look() {
    const { webhooks } = await api.get("/v1/webhooks");
    shown.body.querySelector(".none")?.remove();
    keyed(shown.body, webhooks, (hook) => hook.id, (hook) => {
      const state = badge(hook.state);
      const [delivered, dropped, last] = [h("td", { class: "number" }), h("td", { class: "number" }), h("td")];
      const remove = h("button", { type: "button", class: "danger", click: async () => {
        const sure = await confirmed("Delete this webhook?", `${hook.url} is told nothing more.`, "Delete");
        if (sure) act(() => api.delete(`/v1/webhooks/${encodeURIComponent(hook.id)}`), "The webhook is gone.", look);
      } }, "Delete");
      const cells = [h("td", { class: "long" }, hook.url), h("td", null, state),
        h("td", null, hook.events.join(", ") || "all of broadcasts"), delivered, dropped, last,
        h("td", { class: "end" }, remove)];
      return { element: h("tr", null, ...cells), update(now) {
        text(state, now.state);
        state.dataset.state = now.state === "active" ? "up" : "lost";
        text(delivered, number(now.delivered));
        text(dropped, number(now.dropped));
        const when = now.last_attempt_at ? `${moment(now.last_attempt_at)}: ` : "";
        text(last, `${when}${now.last_error ?? (now.delivered ? "arrived" : "none yet")}`);
        last.className = now.last_error ? "refusal" : "";
      } };
    });
    if (!webhooks.length) nothing(shown, 7, "There is none yet.");
  }
  byId("webhook-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const events = byId("webhook-events").value.split(",").map((word) => word.trim()).filter(Boolean);
    const body = { url: byId("webhook-url").value.trim(), ...(events.length && { events }) };
    const made = await act(() => api.post("/v1/webhooks", body), "The webhook is made.", look);
    if (!made) return;
    event.target.reset();
    byId("webhook-secret").replaceChildren(secret("The secret that signs its messages.", made.secret));
  });
  return look;
}

export function openUsers(api) {
  const shown = table("Users", "Id", "Name", "Since", "");
  byId("users-table").append(shown.whole);
  let after = "";
  let next = null;
  const tell = (made) => byId("user-token").replaceChildren(secret(`The token of ${made.name}.`, made.token));
  async function look() {
    const page = await api.get(`/v1/users?limit=50${after && `&after=${after}`}`);
    next = page.next;
    byId("users-next").disabled = !next;
    byId("users-first").disabled = !after;
    shown.body.querySelector(".none")?.remove();
    keyed(shown.body, page.users, (user) => user.id, (user) => fixed(
      code(user.id), user.name, stamp(user.created_at),
      h("div", { class: "row end" },
        h("button", { type: "button", click: async () => {
          const sure = await confirmed(`Another token for ${user.name}?`, "The old one is nobody’s at once.", "Give another");
          const made = sure && await act(() => api.post(`/v1/users/${user.id}/token`), "", look);
          if (made) tell(made);
        } }, "New token"),
        h("button", { type: "button", class: "danger", click: async () => {
          const sure = await confirmed(`Delete ${user.name}?`, "The token is nobody’s at once. Broadcasts go on until they end.", "Delete");
          if (sure) act(() => api.delete(`/v1/users/${user.id}`), `${user.name} is deleted.`, look);
        } }, "Delete")),
    ));
    if (!page.users.length) nothing(shown, 4, "There is none yet.");
  }
  byId("users-next").addEventListener("click", () => { after = next ?? ""; act(async () => {}, "", look); });
  byId("users-first").addEventListener("click", () => { after = ""; act(async () => {}, "", look); });
  byId("user-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const made = await act(() => api.post("/v1/users", { name: byId("user-name").value.trim() }), "The user is made.", look);
    if (!made) return;
    event.target.reset();
    tell(made);
  });
  return look;
}
