/** `Writer`: reads the tokens of a stream into one answer, which the view draws once per frame. */

import {
  AuthenticationError,
  ConnectionLostError,
  GenerationError,
  HeadraceError,
  HttpError,
  NotFoundError,
  QueueFullError,
  TextGeneration,
} from "../headrace.js";
import { isLeaving } from "./leaving.js";
import { pause, unlessAborted } from "./pause.js";
import { isLoading, problemText } from "./problems.js";

/** @import { LLMGenerationOptions, LLMGenerationResult, LLMStreamingResult, StreamToken, TokenPart } from "../headrace.js" */
/** @import { Answer, Metrics } from "./conversation.js" */
/** @import { AnswerView } from "./answer.js" */

// Intervals at which a growing answer's metrics are updated, and the answer is stored.
const METRICS_MS = 250;
const KEEP_MS = 1000;
// Between two tries while the server loads its model, if it sends no Retry-After.
const LOADING_MS = 1000;
// Between two tries to resume a stream.
const RESUME_MS = 1000;

/**
 * @typedef {Pick<LLMGenerationOptions, "signal" | "onProgress" | "onConnection">} Hooks
 *
 * @typedef {object} WriterOptions
 * @property {Answer} answer the message that grows
 * @property {AnswerView} view
 * @property {((hooks: Hooks) => Promise<LLMStreamingResult>) | null} open starts the stream; null where it began
 *   before this page was loaded
 * @property {() => void} keep stores the conversation
 * @property {() => Promise<void>} onKeyNeeded resolves when the API key may have changed
 */

export class Writer {
  /** @param {WriterOptions} options */
  constructor({ answer, view, open, keep, onKeyNeeded }) {
    this.#answer = answer;
    this.#view = view;
    this.#open = open;
    this.#isResumed = open === null;
    this.#keep = keep;
    this.#onKeyNeeded = onKeyNeeded;
  }

  #answer;
  #view;
  #open;
  #isResumed;
  #keep;
  #onKeyNeeded;
  #abort = new AbortController();
  /** @type {LLMStreamingResult | null} */
  #stream = null;
  #frame = 0;
  #started = performance.now();
  #numTokens = 0;
  #firstTokenTime = 0;

  /** Read the stream to its end, and resume it if it breaks. Never rejects. */
  async run() {
    const timers = [setInterval(() => this.#showMetrics(), METRICS_MS), setInterval(this.#keep, KEEP_MS)];
    addEventListener("pagehide", this.#keep);
    this.#view.begin();
    while (!(await this.#runOnce())) this.#startOver();
    for (const timer of timers) clearInterval(timer);
    removeEventListener("pagehide", this.#keep);
    cancelAnimationFrame(this.#frame);
    this.#view.finish(this.#answer);
    this.#keep();
  }

  /** Stop the answer. Its text so far stays. */
  stop() {
    if (this.#stream) {
      this.#stream.cancel();
      return;
    }
    this.#abort.abort();
    // The server goes on with a resumable stream until it is cancelled.
    if (this.#isResumed) TextGeneration.cancelStream(this.#answer.streamId).catch(() => {});
  }

  /** @returns {Promise<boolean>} whether the answer has ended; if not, the stream may be resumed */
  async #runOnce() {
    try {
      this.#stream = await this.#opened();
      this.#view.showConnection("");
      for await (const token of this.#stream.streamEvents) this.#take(token);
      this.#finish(await this.#stream.result);
      return true;
    } catch (error) {
      this.#stream = null;
      if (await this.#isWorthAnotherTry(error)) return false;
      this.#fail(error);
      return true;
    }
  }

  /** A resumed stream begins again at its first token. */
  #startOver() {
    this.#isResumed = true;
    this.#numTokens = 0;
  }

  /**
   * Returns whether the stream may be resumed, after a wait until another try makes sense.
   *
   * @param {unknown} error
   * @returns {Promise<boolean>}
   */
  async #isWorthAnotherTry(error) {
    const { signal } = this.#abort;
    if (signal.aborted) return false;
    // headrace.js has tried to resume the stream. The error's cause says how that failed.
    const isRefused = this.#isResumed && error instanceof AuthenticationError;
    const isRefusedNow = error instanceof ConnectionLostError && error.cause instanceof AuthenticationError;
    try {
      if (isRefused || isRefusedNow) {
        this.#view.showConnection("Waiting for an API key");
        await unlessAborted(this.#onKeyNeeded(), signal);
      } else if (isLeaving() || (this.#isResumed && isPassing(error))) {
        this.#view.showConnection("Reconnecting…");
        await pause(RESUME_MS, signal);
      } else {
        return false;
      }
    } catch {
      return false; // stopped meanwhile
    }
    return true;
  }

  /** Open or resume the stream; waits while the server loads its model. */
  async #opened() {
    const { signal } = this.#abort;
    /** @type {Hooks} */
    const hooks = {
      signal,
      onProgress: (progress) => this.#view.showProgress(progress),
      onConnection: (state) => this.#view.showConnection(state === "lost" ? "Reconnecting…" : ""),
    };
    for (;;) {
      try {
        if (this.#open && !this.#isResumed) return await this.#open(hooks);
        return await TextGeneration.resumeStream(this.#answer.streamId, hooks);
      } catch (error) {
        if (!isLoading(error)) throw error;
        this.#view.showNote("The model is being loaded");
        await pause(/** @type {{ retryAfterMs?: number }} */ (error).retryAfterMs ?? LOADING_MS, signal);
      }
    }
  }

  /** @param {StreamToken} token */
  #take(token) {
    if (this.#numTokens === 0) this.#onFirst();
    for (const part of [token, ...token.rest]) this.#add(part);
    if (!token.isLast) this.#numTokens++;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#view.draw(this.#answer);
    });
  }

  #onFirst() {
    this.#firstTokenTime = performance.now();
    this.#view.showNote("");
    if (!this.#isResumed) return;
    // A resumed stream begins again at its first token.
    this.#answer.content = "";
    this.#answer.thinking = "";
    this.#answer.toolCalls = [];
  }

  /** @param {TokenPart} part */
  #add({ kind, text, toolCall }) {
    const answer = this.#answer;
    if (kind === "text") answer.content += text;
    else if (kind === "thinking") answer.thinking += text;
    if (!toolCall) return;
    const call = answer.toolCalls[toolCall.index];
    if (call) {
      call.arguments += toolCall.arguments;
      return;
    }
    const { id, name, arguments: first } = toolCall;
    answer.toolCalls.push({ id: id ?? "", name: name ?? "", arguments: first, isComplete: false });
  }

  #showMetrics() {
    if (!this.#numTokens) return;
    const seconds = (performance.now() - this.#firstTokenTime) / 1000;
    this.#answer.metrics = {
      tokens: this.#numTokens,
      tokensPerSecond: this.#numTokens > 1 && seconds > 0 ? (this.#numTokens - 1) / seconds : null,
      firstTokenMs: this.#firstTokenMs(null),
      cost: null,
      currency: null,
    };
    this.#view.showMetrics(this.#answer.metrics);
  }

  /** @param {LLMGenerationResult} result */
  #finish(result) {
    const answer = this.#answer;
    const { finishReason } = result;
    answer.state = finishReason === "cancelled" ? "stopped" : finishReason === "length" ? "length" : "done";
    answer.toolCalls = result.toolCalls;
    answer.metrics = this.#metricsOf(result);
  }

  /** @param {unknown} error */
  #fail(error) {
    const answer = this.#answer;
    const partial = error instanceof HeadraceError ? error.partial : null;
    if (partial) answer.metrics = this.#metricsOf(partial);
    const isCancelled = error instanceof GenerationError && error.code === "cancelled"; // for example by another tab
    if (this.#abort.signal.aborted || isCancelled) {
      answer.state = "stopped";
    } else if (this.#isResumed && error instanceof NotFoundError) {
      answer.state = "cut";
    } else {
      answer.state = "failed";
      answer.problem = problemText(error);
      if (error instanceof QueueFullError) this.#view.countDown(error.retryAfterMs);
      if (error instanceof AuthenticationError) this.#onKeyNeeded();
    }
  }

  /**
   * @param {LLMGenerationResult} result
   * @returns {Metrics | null} null where no token came
   */
  #metricsOf(result) {
    if (!result.tokensUsed) return null;
    return {
      tokens: result.tokensUsed,
      tokensPerSecond: result.tokensPerSecond || null,
      firstTokenMs: this.#firstTokenMs(result),
      cost: result.usage.cost,
      currency: result.usage.currency,
    };
  }

  /**
   * The time to the first token. For a resumed stream, it is the one measured before, or else the server's.
   *
   * @param {LLMGenerationResult | null} result
   */
  #firstTokenMs(result) {
    if (!this.#isResumed) return result?.timeToFirstTokenMs ?? this.#firstTokenTime - this.#started;
    const { metrics } = this.#answer;
    if (metrics?.firstTokenMs) return metrics.firstTokenMs;
    return result?.timings ? result.timings.queueMs + result.timings.prefillMs : null;
  }
}

/**
 * Returns whether an error is temporary, so that the stream may still be resumed.
 *
 * @param {unknown} error
 */
function isPassing(error) {
  if (error instanceof ConnectionLostError || error instanceof QueueFullError) return true;
  return error instanceof HttpError && error.status >= 500;
}
