/** The events of one stream, over one connection after another where the stream is resumable. */

import { Connection } from "./connection.js";
import { ConnectionLostError, HttpError, StreamTimeoutError } from "./errors.js";
import { withResolvers } from "./promises.js";
import { streamPath } from "./stream-id.js";
import { IDLE_TIMEOUT, RECONNECT_TIMEOUT } from "./timeouts.js";

/** @import { StreamRequest } from "./connection.js" */
/** @import { Resolvers } from "./promises.js" */
/** @import { Server } from "./server.js" */
/** @import { LLMGenerationOptions, SseEvent } from "./types.js" */

/** Milliseconds before the first try to reach the server again, the second, and so on; the last one is repeated. */
const PAUSES = [0, 250, 500, 1000, 2000];
/** A connection that was there for so many milliseconds was a good one: when it is lost, all tries begin anew. */
const SETTLED = 1000;
/** Statuses that may be over soon: proxies without a server, servers that start. */
const PASSING_STATUSES = [429, 502, 503, 504];

const LOST = "the connection was lost in mid-answer";

export class EventStream {
  #server;
  #id;
  #options;
  #connection = new Connection();
  /** When the last connection was opened. */
  #openedAt = 0;
  /** The number of the last event that came, of a resumable stream. */
  #lastEvent = 0;
  /** When the connection was lost; null again once an event has come since. @type {number | null} */
  #lostAt = null;
  /** How many times the client has tried to reach the server since then. */
  #tries = 0;
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

  /** Settled when the stream was stopped or closed. */
  get stopped() {
    return this.#stopped.promise;
  }

  get #idleTimeout() {
    return this.#options.idleTimeoutMs ?? IDLE_TIMEOUT;
  }

  /**
   * Opens a connection.
   *
   * @param {StreamRequest} request
   * @param {number} [limit] how many milliseconds that may take; 0 stands for no limit
   */
  async open(request, limit = this.#idleTimeout) {
    this.#connection = new Connection();
    await this.#connection.open(request, limit);
    this.#openedAt = performance.now();
  }

  /**
   * Waits for what comes next.
   *
   * @returns {Promise<SseEvent[] | null>} new events, often none; null where the connection is lost
   */
  async next() {
    const events = await this.#connection.next(this.#idleTimeout);
    return events?.filter((event) => this.#isNew(event)) ?? null;
  }

  /**
   * Opens another connection after one was lost: the server goes on after the last event that came. Returns as well
   * where the stream was stopped meanwhile.
   */
  async reconnect() {
    if (!this.#options.resumable || this.#isStopped) throw new ConnectionLostError(LOST, { code: "connection_lost" });
    const now = performance.now();
    // A connection that breaks at once, and brings nothing, does not extend the time for tries.
    if (this.#lostAt === null || now - this.#openedAt > SETTLED) {
      this.#lostAt = now;
      this.#tries = 0;
    }
    this.#options.onConnection?.("lost");
    const end = this.#lostAt + (this.#options.reconnectTimeoutMs ?? RECONNECT_TIMEOUT);
    /** @type {unknown} */
    let cause;
    for (let left = end - now; left > 0; left = end - performance.now()) {
      const pause = PAUSES[Math.min(this.#tries++, PAUSES.length - 1)] ?? 0;
      await this.#pause(Math.min(pause, left));
      if (this.#isStopped) return;
      if (pause >= left) break;
      try {
        await this.open((signal) => this.#requestRest(signal), Math.max(1, end - performance.now()));
      } catch (error) {
        if (this.#isClosed) return;
        cause = error;
        if (error instanceof ConnectionLostError || PASSING_STATUSES.includes(statusOf(error))) continue;
        break;
      }
      this.#options.onConnection?.("resumed");
      return;
    }
    const reason = cause === undefined ? "it breaks off again and again" : messageOf(cause);
    const message = `${LOST}, and could not be taken up again: ${reason}`;
    throw new ConnectionLostError(message, { code: "connection_lost", cause });
  }

  /** Ends pauses between two tries, and prevents further ones. Events that the connection brings can still be read. */
  stop() {
    this.#isStopped = true;
    this.#stopped.resolve();
  }

  /**
   * Lets the connection go.
   *
   * @param {{ isOver: boolean }} state whether the server has sent its last event
   */
  close({ isOver }) {
    this.stop();
    this.#isClosed = true;
    if (isOver) this.#connection.letGo();
    else this.#connection.abort();
  }

  /** Whether an event was not seen before the connection dropped; notes that it is now. @param {SseEvent} event */
  #isNew({ id }) {
    if (id === "") return true; // of a stream that is not resumable
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
