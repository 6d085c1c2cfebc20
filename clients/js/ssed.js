// @ts-check
// What EventSource leaves to the page: it notices that a stream has gone silent, comes
// back where an EventSource gives up for good, and keeps the last id across all of it.
// One file, no dependencies, no build step. Types are in ssed.d.ts.

/**
 * One event.
 * @typedef {object} Message
 * @property {string} type "message", or one of Options.types.
 * @property {string} id The position, with the publisher's id behind it if there is one: "1795431293042-7/order-17".
 * @property {string} data
 */

/**
 * Messages are missing, or may be. Load the current state from your backend.
 * @typedef {object} Gap
 * @property {string} reason "unknown-id", "trimmed", "expired", "evicted", "outage", "unavailable", or one to come.
 * @property {string} [channel] Absent: all channels of the stream.
 * @property {string} [requested] The id that was asked for.
 * @property {string} [oldest] The first position that is left.
 */

/**
 * @typedef {object} Options
 * @property {(message: Message) => void} onMessage
 * @property {(gap: Gap) => void} onGap
 * @property {string[]} [types] Event types beside "message" that go to onMessage.
 * @property {string} [lastEventId] Where to go on, for a page that has kept it. Default: from now.
 * @property {string} [heartbeatEvent] The --heartbeat-event of the server. Without it silence is not noticed.
 * @property {number} [silence] After so many ms without any event the stream is opened anew. Longer than
 *   the --heartbeat of the server, and than its --retry: a longer one is cut short. Default: 45000.
 * @property {(open: boolean) => void} [onState] The stream was opened, or is not open any more.
 * @property {(retryIn: number) => void} [onRefused] The server, or a proxy, has answered something that an
 *   EventSource takes as final, such as 401 or 503. It is tried again in so many ms, unless close is called.
 * @property {boolean} [withCredentials] Send cookies to another origin.
 * @property {typeof globalThis.EventSource} [EventSource] Another implementation, for programs.
 */

/**
 * @typedef {object} Stream
 * @property {string} lastEventId Of the newest event; "" before the first.
 * @property {() => void} close
 */

/** The delay after the first refusal, and the longest, in ms; it doubles between them. */
const firstDelay = 1000;
const longestDelay = 30000;

/**
 * Opens a stream of channels and keeps it open until close is called.
 * @param {string | URL} url Such as "https://example.com/sse/connect".
 * @param {string[]} channels
 * @param {Options} options
 * @returns {Stream}
 */
export function subscribe(url, channels, options) {
  const { silence = 45000, heartbeatEvent } = options;
  const Source = options.EventSource ?? globalThis.EventSource;
  const stream = { lastEventId: options.lastEventId ?? "", close };
  /** @type {EventSource | undefined} */
  let source;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer; // of the watchdog while the stream is open or being opened, of the next try after a refusal
  let heard = 0; // when something came last
  let refusals = 0;

  function open() {
    const target = new URL(url, globalThis.location?.href);
    for (const channel of channels) target.searchParams.append("channel_id", channel);
    if (stream.lastEventId) target.searchParams.set("last_event_id", stream.lastEventId);
    const own = (source = new Source(target.href, { withCredentials: options.withCredentials ?? false }));
    heard = Date.now();
    if (heartbeatEvent) watch(silence); // a proxy may take the request and never answer

    /** @param {(e: MessageEvent) => void} handle @returns {(e: Event) => void} */
    const hear = (handle) => (e) => {
      if (own !== source) return; // closed; this one was still on its way
      heard = Date.now();
      const event = /** @type {MessageEvent} */ (e);
      if (event.lastEventId) stream.lastEventId = event.lastEventId;
      handle(event);
    };
    const message = hear((e) => options.onMessage({ type: e.type, id: e.lastEventId, data: e.data }));
    for (const type of new Set(["message", ...(options.types ?? [])])) own.addEventListener(type, message);
    own.addEventListener("gap", hear((e) => options.onGap(JSON.parse(e.data))));
    if (heartbeatEvent) own.addEventListener(heartbeatEvent, hear(() => {}));
    own.addEventListener("open", () => {
      if (own !== source) return;
      refusals = 0;
      heard = Date.now();
      if (heartbeatEvent) watch(silence);
      options.onState?.(true);
    });
    own.addEventListener("error", () => {
      if (own !== source) return;
      // It comes back by itself. That request, too, a proxy may take and never answer.
      heard = Date.now();
      if (heartbeatEvent) watch(silence);
      options.onState?.(false);
      if (own === source && own.readyState === Source.CLOSED) refused();
    });
  }

  /** Looks again after ms whether something was heard. @param {number} ms */
  function watch(ms) {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const left = heard + silence - Date.now();
      if (left > 0) return watch(left);
      end();
      options.onState?.(false);
      if (!closed) open();
    }, ms);
  }

  function refused() {
    end();
    // Half of it is drawn, so that pages do not come back all at once.
    const delay = Math.min(longestDelay, firstDelay * 2 ** refusals++) * (0.5 + Math.random() / 2);
    timer = setTimeout(open, delay);
    options.onRefused?.(delay);
  }

  function end() {
    clearTimeout(timer);
    source?.close();
    source = undefined;
  }

  let closed = false;
  function close() {
    closed = true;
    end();
  }

  open();
  return stream;
}
