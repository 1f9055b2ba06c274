/** A headrace server as the client sees it: its address, the key for it, and requests to it. */

import { ConnectionLostError } from "./errors.js";
import { httpError, objectOf, textOf } from "./response.js";
import { streamPath } from "./stream-id.js";
import { IDLE_TIMEOUT, silenceError } from "./timeouts.js";

/**
 * @typedef {object} RequestParts
 * @property {unknown} [body] sent as JSON
 * @property {string} [id] the name for a new stream
 * @property {number} [after] the number of the last event that came, of a stream that is resumed
 * @property {AbortSignal | undefined} [signal]
 * @property {boolean} [keepalive] the request outlives the page
 */

/** Its properties never change, so that a stream goes on with the server and the key that it began with. */
export class Server {
  /** @param {{ baseUrl: string, apiKey: string | null, fetch: typeof globalThis.fetch | null }} settings */
  constructor({ baseUrl, apiKey, fetch }) {
    /** @readonly */
    this.baseUrl = baseUrl;
    /** @readonly */
    this.apiKey = apiKey;
    /** The function to make requests with; null stands for the global one. @readonly */
    this.fetch = fetch;
  }

  /**
   * Cancels a stream, whoever reads it.
   *
   * @param {string} id
   * @returns {Promise<boolean>} false where the stream had ended already
   */
  async cancelStream(id) {
    const answer = await this.json("DELETE", streamPath(id), { keepalive: true });
    return answer.cancelled === true;
  }

  /**
   * Makes a request whose answer is a JSON object.
   *
   * @param {string} method
   * @param {string} path
   * @param {RequestParts} parts
   */
  async json(method, path, { signal, ...parts }) {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(silenceError(IDLE_TIMEOUT)), IDLE_TIMEOUT);
    const either = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
    try {
      return objectOf(await textOf(await this.request(method, path, { ...parts, signal: either }), either));
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Makes a request.
   *
   * @param {string} method
   * @param {string} path
   * @param {RequestParts} parts
   * @returns {Promise<Response>} a response that is no error; an error is thrown
   */
  async request(method, path, { body, id, after, signal, keepalive }) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (this.apiKey !== null) headers.Authorization = `Bearer ${this.apiKey}`;
    if (id !== undefined) headers["X-Request-Id"] = id;
    if (after !== undefined) headers["Last-Event-ID"] = String(after);
    /** @type {RequestInit} */
    const request = { method, headers, cache: "no-store" };
    if (body !== undefined) request.body = JSON.stringify(body);
    if (signal) request.signal = signal;
    if (keepalive) request.keepalive = true;
    // `fetch` has to be called on its own: a browser's refuses to be a method of another object.
    const fetch = this.fetch ?? globalThis.fetch;
    /** @type {Response} */
    let response;
    try {
      response = await fetch(new URL(path, this.baseUrl), request);
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw new ConnectionLostError(`${this.baseUrl} cannot be reached`, { code: "unreachable", cause: error });
    }
    if (!response.ok) throw await httpError(response, signal);
    return response;
  }
}
