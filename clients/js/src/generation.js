/** One stream, from the request to its end: who reads it, what has come of it, and how it ends. */

import { Answer } from "./answer.js";
import { chunkOf, progressOf } from "./chunk.js";
import { ConnectionLostError, GenerationError, HeadraceError, StreamTimeoutError } from "./errors.js";
import { EventStream } from "./event-stream.js";
import { isLeaving } from "./page-unload.js";
import { withResolvers } from "./promises.js";
import { describe } from "./invalid-request.js";
import { resultOf } from "./result.js";
import { LAST_WORDS_TIMEOUT } from "./timeouts.js";

/** @import { Chunk } from "./chunk.js" */
/** @import { StreamRequest } from "./connection.js" */
/** @import { Resolvers } from "./promises.js" */
/** @import { Server } from "./server.js" */
/** @import { FinishReason, LLMGenerationOptions, LLMGenerationResult, SseEvent, StreamToken } from "./types.js" */
/** @import { Tokens } from "./token-views.js" */

/**
 * The stream is read only when somebody asks for more of it: an iterator, or whoever waits for the result. So a caller
 * that does not keep up holds the server back.
 */
export class Generation {
  #server;
  #options;
  #events;
  #answer = new Answer();
  #startedAt = performance.now();
  /** Tokens that nobody has taken yet. @type {StreamToken[]} */
  #queue = [];
  /** Whether there is an iterator already. */
  #isTaken = false;
  #isCancelled = false;
  /** Whether the server has sent its last event. */
  #isOver = false;
  /** Whether the result is settled. */
  #isEnded = false;
  #isFailed = false;
  /** What the stream has failed with. @type {unknown} */
  #error = null;
  /** @type {Resolvers<LLMGenerationResult>} */
  #result = withResolvers();
  /** The step that is under way. @type {Promise<void> | null} */
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
    this.#events = new EventStream(server, id, options);
    this.#result.promise.catch(() => {}); // an error that nobody asks for is not reported as an unhandled rejection
  }

  get result() {
    return this.#result.promise;
  }

  /**
   * Opens the first connection.
   *
   * @param {StreamRequest} request
   * @param {{ isResumed?: boolean }} [state] whether the stream had begun before
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
      // The server may have begun the stream before the connection broke.
      if (error instanceof ConnectionLostError && !isResumed) this.#disown();
      throw error;
    }
  }

  /** Gives the tokens to the only iterator. @returns {Tokens} */
  take() {
    if (this.#isTaken)
      throw new HeadraceError("this stream is already being read; it can be read once", { code: "taken" });
    this.#isTaken = true;
    return this.#tokens();
  }

  /** Reads the stream to its end, for whoever waits for the result; tokens wait for whoever may take them later. */
  async collect() {
    while (!this.#isEnded) await this.#advance();
  }

  /** Ends the stream quietly; does nothing after its end. */
  cancel() {
    if (this.#isEnded || this.#isCancelled) return;
    this.#isCancelled = true;
    this.#queue = [];
    this.#events.stop();
    // A request to the server cancels the stream, and the connection stays open, so that the server can still send the
    // counts over it. The client waits for them for a short time only.
    const timer = setTimeout(() => this.#finish("cancelled"), LAST_WORDS_TIMEOUT);
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

  /** Takes in what comes next; whoever asks meanwhile waits for the same step. */
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
      if (!(error instanceof ConnectionLostError)) this.#disown();
      this.#fail(error);
    }
  }

  /** The connection is lost before the server has sent its last event. */
  async #reconnect() {
    try {
      await this.#events.reconnect();
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) throw error;
      // All of the answer is here, and only the counts are missing: no reason to fail.
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
    const token = this.#tokenOf(chunk, data);
    if (token !== null && !this.#isCancelled) this.#queue.push(token);
  }

  /** @param {Chunk} chunk @param {string} data the chunk as it came */
  #tokenOf(chunk, data) {
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

  /** @param {unknown} error the error as the server tells of it */
  #onError(error) {
    this.#isOver = true;
    const told = /** @type {{ message?: unknown, code?: unknown }} */ (typeof error === "object" ? error : {});
    const message = typeof told?.message === "string" ? told.message : `the stream failed: ${describe(error)}`;
    const code = typeof told?.code === "string" ? told.code : null;
    if (this.#isCancelled && code === "cancelled") return this.#finish("cancelled");
    const kind = code === "timeout" ? StreamTimeoutError : GenerationError;
    this.#fail(new kind(message, { code, partial: this.#resultOf(null) }));
  }

  /** The caller's signal was aborted. */
  #abort() {
    if (this.#isEnded) return;
    this.#disown();
    this.#fail(this.#options.signal?.reason);
  }

  /** Has the server end a resumable stream, which would go on otherwise; other streams end with their connection. */
  #disown() {
    if (this.#options.resumable && !isLeaving()) this.#server.cancelStream(this.id).catch(() => {});
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
