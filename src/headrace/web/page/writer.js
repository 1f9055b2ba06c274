/** Writes one answer: takes the tokens of a stream into the message, and has the view draw it once per frame. */

import { AuthenticationError, HeadraceError, NotFoundError, QueueFullError } from "../headrace.js";
import { pause } from "./pause.js";
import { isLoading, problemText } from "./problems.js";

/** @import { LLMGenerationOptions, LLMGenerationResult, LLMStreamingResult, StreamToken, TokenPart } from "../headrace.js" */
/** @import { Answer, Metrics } from "./conversation.js" */
/** @import { AnswerView } from "./answer.js" */

// How often the figures under a growing answer change, and how often it is stored.
const METRICS_MS = 250;
const KEEP_MS = 1000;
// Between two tries while the server loads its model, where it does not say.
const LOADING_MS = 1000;

/**
 * @typedef {Pick<LLMGenerationOptions, "signal" | "onProgress" | "onConnection">} Hooks
 *
 * @typedef {object} WriterOptions
 * @property {Answer} answer the message that grows
 * @property {AnswerView} view
 * @property {(hooks: Hooks) => Promise<LLMStreamingResult>} open
 * @property {boolean} isResumed whether the stream began before this page was loaded
 * @property {() => void} keep stores the conversation
 * @property {() => void} onKeyNeeded
 */

export class Writer {
  /** @param {WriterOptions} options */
  constructor({ answer, view, open, isResumed, keep, onKeyNeeded }) {
    this.#answer = answer;
    this.#view = view;
    this.#open = open;
    this.#isResumed = isResumed;
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

  /** Run to the end of the answer, whatever that is. Never rejects. */
  async run() {
    const timers = [setInterval(() => this.#showMetrics(), METRICS_MS), setInterval(this.#keep, KEEP_MS)];
    addEventListener("pagehide", this.#keep);
    this.#view.begin();
    try {
      this.#stream = await this.#opened();
      for await (const token of this.#stream.streamEvents) this.#take(token);
      this.#finish(await this.#stream.result);
    } catch (error) {
      this.#fail(error);
    } finally {
      for (const timer of timers) clearInterval(timer);
      removeEventListener("pagehide", this.#keep);
      cancelAnimationFrame(this.#frame);
    }
    this.#view.finish(this.#answer);
    this.#keep();
  }

  /** End it here; what is written stays. */
  stop() {
    if (this.#stream) this.#stream.cancel();
    else this.#abort.abort();
  }

  /** The stream, once the server has its model. */
  async #opened() {
    const { signal } = this.#abort;
    for (;;) {
      try {
        return await this.#open({
          signal,
          onProgress: (progress) => this.#view.showProgress(progress),
          onConnection: (state) => this.#view.showConnection(state === "lost"),
        });
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
    // The stream begins again at its first token.
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
    if (this.#abort.signal.aborted) {
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
   * @returns {Metrics | null} null where not a token came
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
   * A stream that was there before the page was loaded: what was seen then, or else what the server says.
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
