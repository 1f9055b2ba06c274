/** One connection of a stream: a response, and the events that come with it. */

import { HeadraceError } from "./errors.js";
import { SseDecoder } from "./sse-decoder.js";
import { LAST_WORDS_TIMEOUT, silenceError } from "./timeouts.js";

/** @import { SseEvent } from "./types.js" */

/** Makes the request for a stream's events. @typedef {(signal: AbortSignal) => Promise<Response>} StreamRequest */

export class Connection {
  #controller = new AbortController();
  #decoder = new SseDecoder();
  /** @type {ReadableStreamDefaultReader<Uint8Array> | null} */
  #reader = null;

  /**
   * Waits for the response, for no longer than `limit` milliseconds; 0 stands for no limit.
   *
   * @param {StreamRequest} request
   * @param {number} limit
   */
  async open(request, limit) {
    const timer = limit > 0 ? setTimeout(() => this.#controller.abort(silenceError(limit)), limit) : undefined;
    try {
      this.#reader = this.#readerOf(await request(this.#controller.signal));
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Waits for what comes next.
   *
   * @param {number} idleTimeout milliseconds of silence after which the connection counts as lost; 0: never
   * @returns {Promise<SseEvent[] | null>} the events that are complete by now, often none; null: the connection is lost
   */
  async next(idleTimeout) {
    const bytes = await this.#nextBytes(idleTimeout);
    return bytes === null ? null : this.#decoder.feed(bytes);
  }

  abort() {
    this.#controller.abort();
  }

  /** Waits for the response's own end, which is near, so that the browser can use its connection again. */
  letGo() {
    const timer = setTimeout(() => this.abort(), LAST_WORDS_TIMEOUT);
    const read = this.#reader?.read().then(({ done }) => done || this.abort());
    read?.catch(() => {}).finally(() => clearTimeout(timer));
  }

  /** @param {Response} response */
  #readerOf(response) {
    const type = response.headers.get("Content-Type") ?? "";
    if (/^text\/event-stream\b/i.test(type) && response.body !== null) return response.body.getReader();
    this.abort();
    const message = `this is no answer of a headrace server: its Content-Type is ${type || "missing"}`;
    throw new HeadraceError(message, { code: "protocol_error" });
  }

  /** @param {number} idleTimeout */
  async #nextBytes(idleTimeout) {
    const timer = idleTimeout > 0 ? setTimeout(() => this.abort(), idleTimeout) : undefined;
    try {
      const { done, value } = (await this.#reader?.read()) ?? { done: true, value: undefined };
      return done ? null : (value ?? new Uint8Array());
    } catch {
      return null;
    } finally {
      clearTimeout(timer);
    }
  }
}
