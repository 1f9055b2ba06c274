/** `Generation`: one stream on the client's side, from the request to its result, error or cancellation. */

import { Answer } from "./answer.js";
import { chunkOf, progressOf } from "./chunk.js";
import { ConnectionLostError, GenerationError, HeadraceError, StreamTimeoutError } from "./errors.js";
import { ReconnectingStream } from "./reconnecting-stream.js";
import { describe } from "./invalid-request.js";
import { isPageUnloading } from "./page-unload.js";
import { withResolvers } from "./promises.js";
import { resultOf } from "./result.js";
import { CLOSING_TIMEOUT } from "./timeouts.js";

/** @import { Chunk } from "./chunk.js" */
/** @import { StreamRequest } from "./sse-response.js" */
/** @import { Resolvers } from "./promises.js" */
/** @import { Server } from "./server.js" */
/** @import { Tokens } from "./token-views.js" */
/** @import { FinishReason, LLMGenerationOptions, LLMGenerationResult, SseEvent, StreamToken } from "./types.js" */

/**
 * Reads the response only on demand: for the iterator, or for a caller that awaits the result. So a slow reader slows
 * down the server (backpressure).
 */
export class Generation {
  #server;
  #options;
  #events;
  #answer = new Answer();
  #startedAt = performance.now();
  /** Tokens that the iterator has not yielded yet. @type {StreamToken[]} */
  #queue = [];
  /** Whether the iterator exists. */
  #isTaken = false;
  #isCancelled = false;
  /** Whether the server has sent its last event. */
  #isOver = false;
  /** Whether the result is settled. */
  #isEnded = false;
  #isFailed = false;
  /** The reason of a failed stream. @type {unknown} */
  #error = null;
  /** @type {Resolvers<LLMGenerationResult>} */
  #result = withResolvers();
  /** The step that is being executed. @type {Promise<void> | null} */
  #advancing = null;
  #onAbort = () => this.#abort();

  /**
   * @param {Server} server
   * @param {string} id
   * @param {LLMGenerationOptions} options
   */
  constructor(server, id, options) {
    /** @readonly */
    this.id = id;
    this.#server = server;
    this.#options = options;
    this.#events = new ReconnectingStream(server, id, options);
    this.#result.promise.catch(() => {}); // no unhandled rejection where nobody awaits the result
  }

  get result() {
    return this.#result.promise;
  }

  /**
   * Open the first connection.
   *
   * @param {StreamRequest} request
   * @param {{ isResumed?: boolean }} [state] whether the stream exists on the server already
   */
  async connect(request, { isResumed = false } = {}) {
    const { signal } = this.#options;
    signal?.throwIfAborted();
    signal?.addEventListener("abort", this.#onAbort);
    try {
      await this.#events.open(request);
    } catch (error) {
      signal?.removeEventListener("abort", this.#onAbort);
      if (signal?.aborted) throw signal.reason;
      // The server may have started the stream before the connection broke.
      if (error instanceof ConnectionLostError && !isResumed) this.#abandon();
      throw error;
    }
  }

  /** Returns the only iterator. @returns {Tokens} */
  take() {
    if (this.#isTaken)
      throw new HeadraceError("this stream is already being read; it can be read once", { code: "taken" });
    this.#isTaken = true;
    return this.#tokens();
  }

  /** Read the stream to its end for a caller that awaits the result. The tokens stay queued for a later iterator. */
  async collect() {
    while (!this.#isEnded) await this.#advance();
  }

  /** End the stream without an error. Does nothing after the end. */
  cancel() {
    if (this.#isEnded || this.#isCancelled) return;
    this.#isCancelled = true;
    this.#queue = [];
    this.#events.stop();
    // A request of its own cancels the stream. The stream's connection stays open for a short time, so that the server
    // can still send the token counts.
    const timer = setTimeout(() => this.#finish("cancelled"), CLOSING_TIMEOUT);
    this.#server.cancelStream(this.id).catch(() => this.#finish("cancelled"));
    this.collect().finally(() => clearTimeout(timer));
  }

  /** @returns {Tokens} */
  async *#tokens() {
    try {
      while (!this.#isCancelled) {
        if (this.#queue.length > 0) {
          const batch = this.#queue;
          this.#queue = [];
          for (const token of batch) {
            if (this.#isCancelled) break;
            yield token;
          }
        } else if (!this.#isEnded) await Promise.race([this.#advance(), this.#events.stopped]);
        else if (this.#isFailed) throw this.#error;
        else break;
      }
      yield this.#answer.lastToken();
    } finally {
      this.cancel();
    }
  }

  /** Read the next events. Concurrent callers wait for the same step. */
  #advance() {
    this.#advancing ??= this.#step().finally(() => {
      this.#advancing = null;
    });
    return this.#advancing;
  }

  async #step() {
    try {
      const events = await this.#events.next();
      if (this.#isEnded) return;
      if (events === null) await this.#reconnect();
      else for (const event of events) this.#onEvent(event);
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) this.#abandon();
      this.#fail(error);
    }
  }

  /** Called when the connection is lost before the server has sent its last event. */
  async #reconnect() {
    try {
      await this.#events.reconnect();
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) throw error;
      // The answer is complete, and only the token counts are missing: not a failure.
      if (this.#answer.finishReason !== null) return this.#finish(this.#answer.finishReason);
      error.partial = this.#resultOf(null);
      throw error;
    }
  }

  /** @param {SseEvent} event */
  #onEvent({ data }) {
    if (this.#isEnded) return;
    if (data === "[DONE]") {
      this.#isOver = true;
      return this.#finish(this.#answer.finishReason ?? "stop");
    }
    const chunk = chunkOf(data);
    if (chunk === null) throw this.#unreadable(data);
    if (chunk.error) return this.#onError(chunk.error);
    if (chunk.prompt_progress) this.#options.onProgress?.(progressOf(chunk.prompt_progress));
    const token = this.#addToAnswer(chunk, data);
    if (token !== null && !this.#isCancelled) this.#queue.push(token);
  }

  /** @param {Chunk} chunk @param {string} data the chunk's JSON text */
  #addToAnswer(chunk, data) {
    try {
      return this.#answer.take(chunk);
    } catch {
      throw this.#unreadable(data); // a field has a type that the server never sends
    }
  }

  /** @param {string} data */
  #unreadable(data) {
    const message = `this is no event of a headrace server: ${data.slice(0, 100)}`;
    return new HeadraceError(message, { code: "protocol_error", partial: this.#resultOf(null) });
  }

  /** @param {unknown} error the `error` field of a chunk */
  #onError(error) {
    this.#isOver = true;
    const reported = /** @type {{ message?: unknown, code?: unknown }} */ (typeof error === "object" ? error : {});
    const message = typeof reported?.message === "string" ? reported.message : `the stream failed: ${describe(error)}`;
    const code = typeof reported?.code === "string" ? reported.code : null;
    if (this.#isCancelled && code === "cancelled") return this.#finish("cancelled");
    const ErrorClass = code === "timeout" ? StreamTimeoutError : GenerationError;
    this.#fail(new ErrorClass(message, { code, partial: this.#resultOf(null) }));
  }

  /** The caller's signal was aborted. */
  #abort() {
    if (this.#isEnded) return;
    this.#abandon();
    this.#fail(this.#options.signal?.reason);
  }

  /** Cancel a resumable stream on the server, where it would run on. Other streams end with their connection. */
  #abandon() {
    if (this.#options.resumable && !isPageUnloading()) this.#server.cancelStream(this.id).catch(() => {});
  }

  /** @param {FinishReason} reason */
  #finish(reason) {
    if (this.#isEnded) return;
    this.#result.resolve(this.#resultOf(reason));
    this.#end();
  }

  /** @param {unknown} error */
  #fail(error) {
    if (this.#isEnded) return;
    if (this.#isCancelled) return this.#finish("cancelled");
    this.#isFailed = true;
    this.#error = error;
    this.#result.reject(error);
    this.#end();
  }

  #end() {
    this.#isEnded = true;
    this.#options.signal?.removeEventListener("abort", this.#onAbort);
    this.#events.close({ isOver: this.#isOver });
  }

  /** @param {FinishReason | null} reason */
  #resultOf(reason) {
    const { jsonSchema } = this.#options;
    const hasSchema = jsonSchema !== undefined && jsonSchema !== null;
    return resultOf(this.#answer, reason, { id: this.id, startedAt: this.#startedAt, hasSchema });
  }
}
