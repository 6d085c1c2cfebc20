/**
 * Opens a stream of channels and keeps it open until close is called.
 * @param {string | URL} url Such as "https://example.com/sse/connect".
 * @param {string[]} channels
 * @param {Options} options
 * @returns {Stream}
 */
export function subscribe(url: string | URL, channels: string[], options: Options): Stream;
/**
 * One event.
 */
export type Message = {
    /**
     * "message", or one of Options.types.
     */
    type: string;
    /**
     * The position, with the publisher's id behind it if there is one: "1795431293042-7/order-17".
     */
    id: string;
    data: string;
};
/**
 * Messages are missing, or may be. Load the current state from your backend.
 */
export type Gap = {
    /**
     * "unknown-id", "trimmed", "expired", "evicted", "outage", "unavailable", or one to come.
     */
    reason: string;
    /**
     * Absent: all channels of the stream.
     */
    channel?: string | undefined;
    /**
     * The id that was asked for.
     */
    requested?: string | undefined;
    /**
     * The first position that is left.
     */
    oldest?: string | undefined;
};
export type Options = {
    onMessage: (message: Message) => void;
    onGap: (gap: Gap) => void;
    /**
     * Event types beside "message" that go to onMessage.
     */
    types?: string[] | undefined;
    /**
     * Where to go on, for a page that has kept it. Default: from now.
     */
    lastEventId?: string | undefined;
    /**
     * The --heartbeat-event of the server. Without it silence is not noticed.
     */
    heartbeatEvent?: string | undefined;
    /**
     * After so many ms without any event the stream is opened anew. Longer than
     * the --heartbeat of the server, and than its --retry: a longer one is cut short. Default: 45000.
     */
    silence?: number | undefined;
    /**
     * The stream was opened, or is not open any more.
     */
    onState?: ((open: boolean) => void) | undefined;
    /**
     * The server, or a proxy, has answered something that an
     * EventSource takes as final, such as 401 or 503. It is tried again in so many ms, unless close is called.
     */
    onRefused?: ((retryIn: number) => void) | undefined;
    /**
     * Send cookies to another origin.
     */
    withCredentials?: boolean | undefined;
    /**
     * Another implementation, for programs.
     */
    EventSource?: {
        new (url: string | URL, eventSourceInitDict?: EventSourceInit): EventSource;
        prototype: EventSource;
        readonly CONNECTING: 0;
        readonly OPEN: 1;
        readonly CLOSED: 2;
    } | undefined;
};
export type Stream = {
    /**
     * Of the newest event; "" before the first.
     */
    lastEventId: string;
    close: () => void;
};
