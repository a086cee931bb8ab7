// Plays from an edge and knows how it goes: how far behind, and where trouble is.
// With hls.js where the browser can be fed parts as they come; else with whatever
// it plays by itself.

/** Moments between two reports, at most. */
const KEPT = 20;

export class Player {
  /** `refused(status)`: the edge has nothing for this viewer any more. */
  constructor(video, { refused }) {
    this.video = video;
    this.url = "";
    this.moments = [];
    /** The shortest wait for a first byte, in milliseconds. */
    this.shortest = Infinity;
    // What is shown is as far behind as the list asks for (PART-HOLD-BACK), and
    // plays a little faster while it is further behind than that.
    this.hls = window.Hls?.isSupported() ? new window.Hls({
      lowLatencyMode: true, maxLiveSyncPlaybackRate: 1.2, liveSyncOnStallIncrease: 0.2,
      backBufferLength: 30, enableWorker: false,
    }) : null;
    this.errors = [];
    this.watched = { time: 0, since: Date.now() };
    this.retry = 0;
    if (this.hls) this.#listen(refused);
    // Before the first chunk, and after a hiccup, the edge has nothing to play yet.
    else video.addEventListener("error", () => { if (this.url) this.#again(); });
  }

  /** Whether this browser can play at all. */
  get able() {
    return !!this.hls || !!this.video.canPlayType("application/vnd.apple.mpegurl");
  }

  load(url) {
    clearTimeout(this.retry);
    this.url = url;
    if (this.hls) {
      this.hls.loadSource(url);
      if (this.hls.media !== this.video) this.hls.attachMedia(this.video);
    } else {
      this.video.src = url;
    }
    this.video.play().catch(() => {});
  }

  /** Asks for nothing more; what is here is played to its end. */
  stop() {
    clearTimeout(this.retry);
    this.url = "";
    this.hls?.stopLoad();
  }

  #again() {
    clearTimeout(this.retry);
    this.retry = setTimeout(() => { if (this.url) this.load(this.url); }, 2000);
  }

  #listen(refused) {
    const { Events, ErrorTypes } = window.Hls;
    this.hls.on(Events.ERROR, (_, { type, details, fatal, response }) => {
      this.errors.push({ type, details, fatal });
      if (this.errors.length > 100) this.errors.shift();
      if (!this.url) return;
      if (response?.code === 403 || response?.code === 410) refused(response.code);
      else if (fatal && type === ErrorTypes.MEDIA_ERROR) this.hls.recoverMediaError();
      else if (fatal) this.#again();
    });
    this.hls.on(Events.FRAG_LOADED, (_, { frag, part }) => {
      if (frag.type !== "main" || this.video.paused) return;
      const buffering = (part ?? frag).start - this.video.currentTime;
      if (!(buffering >= 0 && buffering <= 300)) return;
      this.moments.push({ buffering, last_mile: this.#lastMile((part ?? frag).stats?.loading) });
      if (this.moments.length > KEPT) this.moments.shift();
    });
  }

  /**
   * Seconds from the edge to here, by one clock: half of the shortest way there
   * and back, and the body. The wait for what is not made yet is the edge's.
   */
  #lastMile(times) {
    if (!times?.first || times.end < times.first) return null;
    this.shortest = Math.min(this.shortest, times.first - times.start);
    return Math.min(300, (times.end - times.first + this.shortest / 2) / 1000);
  }

  /** What was measured since this was asked last. */
  take() {
    return this.moments.splice(0);
  }

  /**
   * Seconds from the stamp of the broadcaster, or else of the origin, to the
   * screen. `ahead`: how much control's clock is ahead of this one, in milliseconds.
   */
  behind(ahead) {
    if (this.video.readyState < 2) return null;
    const started = this.hls ? null : this.video.getStartDate?.()?.getTime();
    const shown = this.hls ? this.hls.playingDate?.getTime() : started + this.video.currentTime * 1000;
    return Number.isFinite(shown) ? Math.max(0, (Date.now() + ahead - shown) / 1000) : null;
  }

  /** Whether parts come one by one. */
  get inParts() {
    return !!this.hls?.latestLevelDetails?.partList?.length;
  }

  /**
   * For how many milliseconds the picture has stood though it should move. A dead
   * edge raises no error: it just stops.
   */
  standing() {
    const { video } = this;
    if (video.paused || video.hidden || video.currentTime !== this.watched.time) {
      this.watched = { time: video.currentTime, since: Date.now() };
    }
    const standing = Date.now() - this.watched.since;
    if (standing > 1500) this.#overHole();
    return standing;
  }

  /** Where the broadcaster was away there is nothing to play: go on behind it. */
  #overHole() {
    const { buffered, currentTime } = this.video;
    for (let i = 0; i < buffered.length; i += 1) {
      if (buffered.start(i) > currentTime) {
        this.video.currentTime = buffered.start(i) + 0.05;
        return;
      }
    }
  }
}
