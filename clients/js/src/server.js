/** `Server`: the address of a headrace server and its API key; sends requests to it. */

import { ConnectionLostError } from "./errors.js";
import { httpError, objectOf, textOf } from "./response.js";
import { streamPath } from "./stream-id.js";
import { IDLE_TIMEOUT, silenceError } from "./timeouts.js";

/**
 * @typedef {object} RequestParts
 * @property {unknown} [body] sent as JSON
 * @property {string} [id] the id of a new stream
 * @property {number} [after] resume a stream after the event of this number
 * @property {AbortSignal | undefined} [signal]
 * @property {boolean} [keepalive] finish the request even if the page is closed
 */

/** Immutable, so that a stream keeps the address and the key that it began with. */
export class Server {
  /** @param {{ baseUrl: string, apiKey: string | null, fetch: typeof globalThis.fetch | null }} settings */
  constructor({ baseUrl, apiKey, fetch }) {
    /** @readonly */
    this.baseUrl = baseUrl;
    /** @readonly */
    this.apiKey = apiKey;
    /** Replaces the global `fetch`, unless null. @readonly */
    this.fetch = fetch;
  }

  /**
   * Cancel a stream, whoever reads it.
   *
   * @param {string} id
   * @returns {Promise<boolean>} false if the stream had ended already
   */
  async cancelStream(id) {
    const answer = await this.json("DELETE", streamPath(id), { keepalive: true });
    return answer.cancelled === true;
  }

  /**
   * Send a request whose answer is a JSON object.
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
   * Send a request.
   *
   * @param {string} method
   * @param {string} path
   * @param {RequestParts} parts
   * @returns {Promise<Response>} a response of status 2xx; others are thrown as errors
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
    // Not called as a method: a browser's `fetch` throws if its `this` is another object.
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
