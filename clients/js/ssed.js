// @ts-check
// A stream of ssed for pages and programs. Types are in ssed.d.ts.

/** @typedef {import("./ssed.d.ts").Options} Options */
/** @typedef {{id: string, type?: string, data?: string}} Event Without type: only the position moved. */
/** @typedef {{opened: (open: boolean) => void, heard: () => void, take: (event: Event) => void, position: () => string}} Sink */

/** The delay after the first refusal or failure, and the longest, in ms. It doubles between them. */
const firstDelay = 1000;
const longestDelay = 30000;

/** So many ids are remembered to tell an event that came twice from one that was missed. */
const remembered = 4096;

/** @type {typeof import("./ssed.d.ts").subscribe} */
export function subscribe(url, channels, options) {
  const target = new URL(url, globalThis.location?.href);
  for (const channel of channels) target.searchParams.append("channel_id", channel);
  if (options.tell) target.searchParams.set("tell", "channel");
  if (options.since) target.searchParams.set("since", options.since);
  if (options.last) target.searchParams.set("last", `${options.last}`);
  const told = new Map(options.tell ? channels.map((channel) => [toldAs(channel), channel]) : []);
  const ending = new AbortController();
  /** @type {Map<string | undefined, Options["onMessage"]>} */
  const handlers = new Map();
  const stream = {
    lastEventId: options.lastEventId ?? "",
    close: () => ending.abort(),
    on: handlers.set.bind(handlers),
  };

  let isOpen = false;
  /** @type {Sink} */
  const page = {
    position: () => stream.lastEventId,
    heard() {},
    opened(open) {
      if (open === isOpen) return;
      isOpen = open;
      if (!ending.signal.aborted) call(() => options.onState?.(open));
    },
    take({ id, type, data }) {
      if (ending.signal.aborted) return;
      if (id) stream.lastEventId = id;
      if (data === undefined || type === undefined || type === options.heartbeatEvent) return;
      if (type === "gap") call(() => options.onGap(JSON.parse(data)));
      else {
        const channel = told.get(type);
        call(() => (handlers.get(channel) ?? options.onMessage)({ type, id, data, channel }));
      }
    },
  };

  const canShare = globalThis.document && navigator.locks && globalThis.BroadcastChannel;
  if (options.share !== false && canShare) share(target, options, page, ending.signal);
  else void read(target, options, page, ending.signal);
  return stream;
}

/**
 * The type by which the server tells of a channel.
 * @param {string} channel
 */
function toldAs(channel) {
  return channel.replace(
    /[%\r\n]|^(g(?=ap$)|o(?=pen$)|e(?=rror$))/g,
    (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0"),
  );
}

/**
 * Calls a function of the page. What it throws is reported and does not end the stream.
 * @param {() => void} fn
 */
function call(fn) {
  try {
    fn();
  } catch (error) {
    setTimeout(() => {
      throw error;
    });
  }
}

/**
 * Shares one connection between all tabs that ask for the same URL. The tab that holds the
 * lock reads the stream and tells the others. When it is closed or killed the browser gives
 * the lock to the next tab, which goes on at its own last id.
 *
 * Each event names the id before it. So a tab knows whether the event is the next one, one
 * that it has already, or whether it missed something. Then it reads the stream by itself
 * until it is where the others are.
 * @param {URL} target
 * @param {Options} options
 * @param {Sink} page
 * @param {AbortSignal} signal
 */
function share(target, options, page, signal) {
  const { silence = 45000 } = options;
  const name = `ssed ${options.withCredentials ? "with credentials " : ""}${target.href}`;
  const bus = new BroadcastChannel(name);
  const starts = /[?&](since|last)=/.test(name); // a late tab has missed something
  let leads = false;
  let isOpen = false;
  /** @type {AbortController | undefined} */
  let turn; // of this tab: a request for the lock, or the reading while it holds it
  /** @type {AbortController | undefined} */
  let catchingUp; // the reading of a tab that missed something
  let latest = ""; // the id that the leader told last
  /** @type {Set<string>} */
  const seen = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let watchdog;

  /** @param {Event} event */
  const show = (event) => {
    seen.add(event.id);
    if (seen.size > remembered) seen.delete(/** @type {string} */ (seen.values().next().value));
    page.take(event);
  };

  /** @param {Event} event @param {string} before */
  const follow = (event, before) => {
    latest = event.id;
    const here = page.position();
    if (here === before || (!here && !starts)) {
      rejoin();
      show(event);
    } else if (!catchingUp && !seen.has(event.id)) {
      const own = (catchingUp = new AbortController());
      const take = (/** @type {Event} */ next) => {
        if (own !== catchingUp) return;
        show(next);
        if (next.id === latest) rejoin();
      };
      void read(target, options, { ...page, take }, own.signal);
    }
  };
  const rejoin = () => {
    catchingUp?.abort();
    catchingUp = undefined;
  };

  // A leader that is frozen holds the lock and says nothing.
  const watch = () => {
    clearTimeout(watchdog);
    if (!leads) watchdog = setTimeout(() => lead(true), silence * (1 + Math.random()));
  };

  bus.onmessage = ({ data: said }) => {
    if (signal.aborted) return;
    watch();
    if (said.event) {
      follow(said.event, said.before);
    } else if (said.open !== undefined) {
      page.opened(said.open);
    } else if (said.joined && leads) {
      bus.postMessage({ open: isOpen });
      const id = page.position();
      if (id) bus.postMessage({ event: { id }, before: id });
    }
  };

  /** @param {boolean} steal From a leader that says nothing any more. */
  const lead = (steal) => {
    turn?.abort();
    const own = (turn = new AbortController());
    const leading = async () => {
      leads = true;
      clearTimeout(watchdog);
      rejoin();
      let last = page.position();
      await read(target, options, {
        position: page.position,
        heard: () => bus.postMessage({}),
        opened(open) {
          isOpen = open;
          bus.postMessage({ open });
          page.opened(open);
        },
        take(event) {
          const before = last;
          last = event.id;
          bus.postMessage({ event, before });
          follow(event, before);
        },
      }, own.signal);
    };
    navigator.locks.request(name, steal ? { steal } : { signal: own.signal }, leading).catch(() => {
      own.abort();
      if (own !== turn || signal.aborted) return;
      // Another tab has taken the lock, since this one was frozen. It follows again.
      leads = false;
      lead(false);
      watch();
    });
  };

  signal.addEventListener("abort", () => {
    clearTimeout(watchdog);
    rejoin();
    turn?.abort();
    bus.close();
  });
  lead(false);
  watch();
  bus.postMessage({ joined: true });
}

/**
 * Reads the stream until signal is aborted. It opens it anew after its end, a failure or silence.
 * @param {URL} target
 * @param {Options} options
 * @param {Sink} sink
 * @param {AbortSignal} signal
 */
async function read(target, options, sink, signal) {
  const { silence = 45000 } = options;
  let retry = 3000;
  let failures = 0;
  while (!signal.aborted) {
    const attempt = new AbortController();
    const abort = () => attempt.abort();
    signal.addEventListener("abort", abort);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let watchdog;
    let silent = false;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => {
        silent = true;
        abort();
      }, silence);
    };
    let open = false;
    let status = 0;
    try {
      heard();
      sink.heard();
      const token = await options.token?.();
      const url = new URL(target);
      if (sink.position()) url.searchParams.set("last_event_id", sink.position());
      else url.searchParams.set("start", "id");
      const answer = await fetch(url, {
        headers: { Accept: "text/event-stream", ...(token && { Authorization: `Bearer ${token}` }) },
        credentials: options.withCredentials ? "include" : "same-origin",
        cache: "no-store",
        signal: attempt.signal,
      });
      status = answer.status;
      if (status === 200 && answer.body && answer.headers.get("content-type")?.startsWith("text/event-stream")) {
        open = true;
        sink.opened(true);
        const decode = decoder(sink, (ms) => (retry = ms));
        const text = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          const { done, value } = await text.read();
          if (done || signal.aborted) break;
          failures = 0;
          heard();
          if (!decode(value)) sink.heard();
        }
      }
    } catch {
      // The network failed, nothing came, or the stream was closed: what follows is the same.
    }
    clearTimeout(watchdog);
    signal.removeEventListener("abort", abort);
    abort();
    if (signal.aborted) return;
    sink.opened(false);
    if (silent) continue;
    let delay = retry;
    if (!open) {
      // Half of it is drawn, so that pages do not come back all at once.
      delay = Math.min(longestDelay, firstDelay * 2 ** failures++) * (0.5 + Math.random() / 2);
      if (status) call(() => options.onRefused?.(delay, status));
    }
    await sleep(delay, signal);
  }
}

/**
 * Ends sooner when signal is aborted, or when the network is back.
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function sleep(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      globalThis.removeEventListener?.("online", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    globalThis.addEventListener?.("online", done);
    if (signal.aborted) done();
  });
}

/**
 * Takes an event stream apart (HTML standard, section 9.2.6). The function that it returns
 * takes the next piece of text, and tells whether that completed an event.
 * @param {Sink} sink
 * @param {(ms: number) => void} onRetry
 * @returns {(text: string) => boolean}
 */
function decoder(sink, onRetry) {
  let line = "";
  let afterCR = false;
  let id = sink.position();
  let type = "";
  /** @type {string[]} */
  let data = [];

  /** @returns {boolean} */
  const endBlock = () => {
    const moved = id !== sink.position();
    const complete = data.length > 0;
    if (complete) sink.take({ id, type: type || "message", data: data.join("\n") });
    else if (moved) sink.take({ id });
    type = "";
    data = [];
    return complete || moved;
  };
  /** @param {string} name @param {string} value */
  const field = (name, value) => {
    if (name === "data") data.push(value);
    else if (name === "event") type = value;
    else if (name === "id" && !value.includes("\0")) id = value;
    else if (name === "retry" && /^\d+$/.test(value)) onRetry(Number(value));
  };

  return (text) => {
    if (afterCR && text.startsWith("\n")) text = text.slice(1);
    afterCR = text.endsWith("\r");
    let told = false;
    const parts = text.split(/\r\n|\n|\r/);
    for (const [i, part] of parts.entries()) {
      line += part;
      if (i === parts.length - 1) break; // goes on with the next piece
      const colon = line.indexOf(":");
      if (line === "") told = endBlock() || told;
      else if (colon < 0) field(line, "");
      else if (colon > 0) field(line.slice(0, colon), line.slice(colon + 1).replace(/^ /, ""));
      line = "";
    }
    return told;
  };
}
