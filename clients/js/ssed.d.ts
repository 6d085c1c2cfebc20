/**
 * Opens a stream of channels and keeps it open until you call close.
 *
 * All tabs that ask for the same URL and channels share one connection.
 * @param url Such as "https://example.com/sse/connect".
 */
export function subscribe(url: string | URL, channels: string[], options: Options): Stream;

export interface Stream {
  /** The id of the newest event; "" before the first. Keep it to go on after a reload. */
  lastEventId: string;
  close(): void;

  /**
   * Gives the messages of a channel to a function of their own, in the place of onMessage. A
   * second function for the same channel replaces the first. It takes the option tell, by
   * which the channel of a message is known.
   */
  on(channel: string, fn: (message: Message) => void): void;
}

export interface Options {
  onMessage(message: Message): void;
  onGap(gap: Gap): void;

  /** Where to go on, for a page that has kept it. It goes before since and last. Default: from now. */
  lastEventId?: string;

  /**
   * Where to start without lastEventId: "earliest", a duration before now ("10m"), a Unix time
   * in seconds or milliseconds, or a time of RFC 3339.
   */
  since?: string;

  /** Start with the newest so many messages of each channel. Not together with since. */
  last?: number;

  /**
   * Returns the token for "Authorization: Bearer". It is called before every connection, so
   * also after a 401. Return a fresh token when the old one has ended.
   */
  token?(): string | Promise<string>;

  /**
   * Reconnect when nothing came for so many ms, not even a heartbeat. Use three times the
   * --heartbeat of the server. Default: 45000.
   */
  silence?: number;

  /**
   * Tell the channel of each message that has no type of its own, in Message.channel. Its
   * type is then the channel too. A message whose own type is the name of a channel looks like it.
   */
  tell?: boolean;

  /** The --heartbeat-event of the server, so that onMessage does not get it. */
  heartbeatEvent?: string;

  /**
   * false: this tab opens a connection of its own. Default: tabs share one, where the browser
   * has Web Locks and BroadcastChannel.
   */
  share?: boolean;

  /** The stream was opened, or is not open any more. */
  onState?(open: boolean): void;

  /**
   * The server, or a proxy, has answered with another status than 200. ssed.js tries again
   * after so many ms, unless you call close.
   */
  onRefused?(retryIn: number, status: number): void;

  /** Send cookies to another origin. */
  withCredentials?: boolean;
}

/** One event. */
export interface Message {
  /** "message", or the type that the publisher gave. */
  type: string;
  /** The position, with the publisher's id behind it if there is one: "1795431293042-7/order-17". */
  id: string;
  data: string;
  /** With the option tell: the channel that it came on; undefined if it has a type of its own. */
  channel?: string;
}

/** Messages are missing, or may be. Load the current state from your backend. */
export interface Gap {
  /** "unknown-id", "trimmed", "expired", "not-kept", "evicted", "outage", "oversize", "unavailable", or one to come. */
  reason: string;
  /** The one that is concerned. */
  channel?: string;
  /** Those that are, where it is neither one nor all. Without both: all channels of the stream. */
  channels?: string[];
  /** The position that was asked for. */
  requested?: string;
  /** The first position that is left. */
  oldest?: string;
}
