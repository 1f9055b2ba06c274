/** `SseResponse`: one HTTP response, read as server-sent events. A resumable stream may need several. */

import { HeadraceError } from "./errors.js";
import { SseDecoder } from "./sse-decoder.js";
import { CLOSING_TIMEOUT, silenceError } from "./timeouts.js";

/** @import { SseEvent } from "./types.js" */

/** Sends the request for a stream. @typedef {(signal: AbortSignal) => Promise<Response>} StreamRequest */

export class SseResponse {
  #controller = new AbortController();
  #decoder = new SseDecoder();
  /** @type {ReadableStreamDefaultReader<Uint8Array> | null} */
  #reader = null;

  /**
   * Send the request and wait for the response.
   *
   * @param {StreamRequest} request
   * @param {number} limit milliseconds; 0 for no limit
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
   * Wait for the next bytes.
   *
   * @param {number} idleTimeout milliseconds of silence after which the connection counts as lost; 0 for no limit
   * @returns {Promise<SseEvent[] | null>} the events that these bytes complete, often none; null: connection lost
   */
  async next(idleTimeout) {
    const bytes = await this.#nextBytes(idleTimeout);
    return bytes === null ? null : this.#decoder.feed(bytes);
  }

  abort() {
    this.#controller.abort();
  }

  /** Read on to the response's end, which is near, so that the browser can reuse the TCP connection. */
  drain() {
    const timer = setTimeout(() => this.abort(), CLOSING_TIMEOUT);
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
