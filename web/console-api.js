// Speaks to the API with the operator key. The key stands in the session's
// storage and in the Authorization header, and nowhere else.

const PLACE = "spyglass-operator-key";

/** A refusal; `message` is what the problem document says is to be done. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const storedKey = () => sessionStorage.getItem(PLACE);
export const keepKey = (key) => sessionStorage.setItem(PLACE, key);
export const forgetKey = () => sessionStorage.removeItem(PLACE);

export class Api {
  /** `refused()` is called when the key is nobody's any more; `heard(ok)` after each answer or silence. */
  constructor(key, { refused = () => {}, heard = () => {} } = {}) {
    this.key = key;
    this.refused = refused;
    this.heard = heard;
    this.over = new AbortController();
  }

  /** Ends everything that is under way. */
  close() {
    this.over.abort();
  }

  async send(method, path, { body, headers, signal } = {}) {
    const request = {
      method,
      headers: { Authorization: `Bearer ${this.key}`, ...headers },
      signal: signal ?? AbortSignal.any([this.over.signal, AbortSignal.timeout(15000)]),
      cache: "no-store",
    };
    if (body !== undefined) {
      request.body = JSON.stringify(body);
      request.headers["Content-Type"] = "application/json";
    }
    let answer;
    try {
      answer = await fetch(path, request);
    } catch (error) {
      if (!this.over.signal.aborted && !signal?.aborted) this.heard(false);
      throw error.name === "AbortError" ? error : new Refused(0, "Control does not answer.");
    }
    this.heard(true);
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 401) this.refused();
    throw new Refused(answer.status, problem.detail ?? `Control answered ${answer.status}.`);
  }

  async get(path) {
    return (await this.send("GET", path)).json();
  }

  async post(path, body) {
    return (await this.send("POST", path, { body })).json();
  }

  async delete(path) {
    const answer = await this.send("DELETE", path);
    return answer.status === 204 ? null : answer.json();
  }

  /**
   * Server-sent events, for ever: `told({ event, id, data })` for each,
   * `state(word)` when the stream comes and goes. Read by hand, because
   * EventSource sends no Authorization. Rests while nobody looks.
   */
  async listen(path, { told, state }) {
    let last = "";
    let wait = 1000;
    while (!this.over.signal.aborted) {
      await shown(this.over.signal);
      const hidden = new AbortController();
      const leave = () => { if (document.hidden) hidden.abort(); };
      document.addEventListener("visibilitychange", leave);
      try {
        state("opening");
        const headers = last ? { "Last-Event-ID": last } : {};
        const signal = AbortSignal.any([this.over.signal, hidden.signal]);
        const answer = await this.send("GET", path, { headers, signal });
        state("open");
        wait = 1000;
        for await (const event of events(answer.body)) {
          if (event.id) last = event.id;
          if (event.data) told(event);
        }
      } catch (error) {
        if (error instanceof Refused && error.status === 401) return;
      } finally {
        document.removeEventListener("visibilitychange", leave);
      }
      state("closed");
      await pause(wait, this.over.signal);
      wait = Math.min(wait * 2, 15000);
    }
  }
}

/** Reads a stream of events, one by one. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    // A peer that never ends a line is none of ours.
    if (rest.length > 1 << 20) return;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { event: "message", id: "", data: "" };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon < 1) continue;
        const name = line.slice(0, colon);
        if (name in event) event[name] += name === "data" ? line.slice(colon + 1).trimStart() : "";
        if (name === "event" || name === "id") event[name] = line.slice(colon + 1).trim();
      }
      yield event;
    }
  }
}

/** Waits, but not beyond the end. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    if (signal.aborted) done();
    else signal.addEventListener("abort", done);
  });
}

/** Waits until somebody looks at the page. */
function shown(signal) {
  if (!document.hidden || signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    function look() {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      resolve();
    }
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
  });
}

/**
 * Looks again every so many seconds while somebody looks at the page, each look
 * after the one before is over. Answers a function that looks at once.
 */
export function every(secondsApart, signal, look) {
  let wake = () => {};
  (async () => {
    while (!signal.aborted) {
      await shown(signal);
      if (signal.aborted) return;
      const woken = new Promise((resolve) => { wake = resolve; });
      try {
        await look();
      } catch (error) {
        if (!(error instanceof Refused) && error.name !== "AbortError") console.error(error);
      }
      await Promise.race([woken, pause(secondsApart * 1000, signal)]);
    }
  })();
  return () => wake();
}
