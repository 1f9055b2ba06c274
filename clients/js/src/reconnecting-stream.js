/** `ReconnectingStream`: the server-sent events of one stream. Reconnects where the stream is resumable. */

import { SseResponse } from "./sse-response.js";
import { ConnectionLostError, HttpError, StreamTimeoutError } from "./errors.js";
import { withResolvers } from "./promises.js";
import { streamPath } from "./stream-id.js";
import { IDLE_TIMEOUT, RECONNECT_TIMEOUT } from "./timeouts.js";

/** @import { StreamRequest } from "./sse-response.js" */
/** @import { Resolvers } from "./promises.js" */
/** @import { Server } from "./server.js" */
/** @import { LLMGenerationOptions, SseEvent } from "./types.js" */

/** Milliseconds before the first try to reconnect, before the second, and so on; the last pause is repeated. */
const RECONNECT_PAUSES = [0, 250, 500, 1000, 2000];
/** Milliseconds after which a connection counts as stable: when it is lost, the reconnect timeout starts anew. */
const STABLE_AFTER = 1000;
/** Statuses worth another try: from a proxy without a server, or a server that is starting. */
const TEMPORARY_STATUSES = [429, 502, 503, 504];

const LOST_MESSAGE = "the connection was lost in mid-answer";

export class ReconnectingStream {
  #server;
  #id;
  #options;
  #connection = new SseResponse();
  /** When the current connection was opened. */
  #openedAt = 0;
  /** The number of the last event received; only events of resumable streams have numbers. */
  #lastEvent = 0;
  /** When the connection was lost; null after the next event. @type {number | null} */
  #lostAt = null;
  /** Tries to reconnect since then. */
  #numTries = 0;
  #isStopped = false;
  #isClosed = false;
  /** @type {Resolvers<void>} */
  #stopped = withResolvers();

  /**
   * @param {Server} server
   * @param {string} id
   * @param {LLMGenerationOptions} options
   */
  constructor(server, id, options) {
    this.#server = server;
    this.#id = id;
    this.#options = options;
  }

  /** Resolves when the stream is stopped or closed. */
  get stopped() {
    return this.#stopped.promise;
  }

  get #idleTimeout() {
    return this.#options.idleTimeoutMs ?? IDLE_TIMEOUT;
  }

  /**
   * Open a connection.
   *
   * @param {StreamRequest} request
   * @param {number} [limit] milliseconds to wait for the response; 0 for no limit
   */
  async open(request, limit = this.#idleTimeout) {
    this.#connection = new SseResponse();
    await this.#connection.open(request, limit);
    this.#openedAt = performance.now();
  }

  /**
   * Wait for the next bytes.
   *
   * @returns {Promise<SseEvent[] | null>} new events, often none; null if the connection is lost
   */
  async next() {
    const events = await this.#connection.next(this.#idleTimeout);
    return events?.filter((event) => this.#register(event)) ?? null;
  }

  /**
   * Open another connection after one was lost. The server continues after the last event received. Also returns,
   * without a connection, if the stream is stopped meanwhile.
   */
  async reconnect() {
    if (!this.#options.resumable || this.#isStopped)
      throw new ConnectionLostError(LOST_MESSAGE, { code: "connection_lost" });
    const now = performance.now();
    // A connection that breaks at once, without an event, does not restart the timeout.
    if (this.#lostAt === null || now - this.#openedAt > STABLE_AFTER) {
      this.#lostAt = now;
      this.#numTries = 0;
    }
    this.#options.onConnection?.("lost");
    const end = this.#lostAt + (this.#options.reconnectTimeoutMs ?? RECONNECT_TIMEOUT);
    /** @type {unknown} */
    let cause;
    for (let left = end - now; left > 0; left = end - performance.now()) {
      const pause = RECONNECT_PAUSES[Math.min(this.#numTries++, RECONNECT_PAUSES.length - 1)] ?? 0;
      await this.#pause(Math.min(pause, left));
      if (this.#isStopped) return;
      if (pause >= left) break;
      try {
        await this.open((signal) => this.#requestRest(signal), Math.max(1, end - performance.now()));
      } catch (error) {
        if (this.#isClosed) return;
        cause = error;
        if (error instanceof ConnectionLostError || TEMPORARY_STATUSES.includes(statusOf(error))) continue;
        break;
      }
      this.#options.onConnection?.("resumed");
      return;
    }
    const reason = cause === undefined ? "it breaks off again and again" : messageOf(cause);
    const message = `${LOST_MESSAGE}, and could not be taken up again: ${reason}`;
    throw new ConnectionLostError(message, { code: "connection_lost", cause });
  }

  /** Stop reconnecting. The open connection can still be read. */
  stop() {
    this.#isStopped = true;
    this.#stopped.resolve();
  }

  /**
   * Close the connection.
   *
   * @param {{ isOver: boolean }} state whether the server has sent its last event
   */
  close({ isOver }) {
    this.stop();
    this.#isClosed = true;
    if (isOver) this.#connection.drain();
    else this.#connection.abort();
  }

  /**
   * Note an event's number. After a reconnect the server may repeat events.
   *
   * @param {SseEvent} event
   * @returns {boolean} false if the event was received before
   */
  #register({ id }) {
    if (id === "") return true; // the stream is not resumable
    const number = Number(id);
    if (number <= this.#lastEvent) return false;
    this.#lastEvent = number;
    this.#lostAt = null;
    return true;
  }

  /** @param {AbortSignal} signal */
  #requestRest(signal) {
    return this.#server.request("GET", streamPath(this.#id), { after: this.#lastEvent, signal });
  }

  /** @param {number} ms */
  async #pause(ms) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const passed = new Promise((resolve) => {
      timer = setTimeout(resolve, ms);
    });
    await Promise.race([passed, this.stopped]);
    clearTimeout(timer);
  }
}

/** @param {unknown} error */
function statusOf(error) {
  return error instanceof HttpError ? error.status : error instanceof StreamTimeoutError ? 504 : 0;
}

/** @param {unknown} error */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}
