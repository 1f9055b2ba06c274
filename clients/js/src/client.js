/** The client of one server: begins streams, comes back to them, cancels them, and lists models. */

import { checkConfiguration, defaultBaseUrl } from "./configuration.js";
import { NotFoundError } from "./errors.js";
import { Generation } from "./generation.js";
import { modelsOf, OnlyModel } from "./models.js";
import { bodyOf, checkResuming } from "./options.js";
import { unlessAborted } from "./promises.js";
import { invalidValue } from "./invalid-request.js";
import { Server } from "./server.js";
import { newId, streamPath } from "./stream-id.js";
import { streamingResultOf } from "./streaming-result.js";

/** @import { ResumingOptions } from "./options.js" */
/** @import { Configuration, LLMGenerationOptions, LLMStreamingResult, Message, ModelInfo } from "./types.js" */

/** A client of one server. `TextGeneration` is one that is there from the start. */
export class TextGenerationClient {
  #server = new Server({ baseUrl: defaultBaseUrl(), apiKey: null, fetch: null });
  /** The model that the caller has set. @type {string | null} */
  #model = null;
  #onlyModel = new OnlyModel();

  /** @param {Configuration} [configuration] */
  constructor(configuration = {}) {
    this.configure(configuration);
  }

  /**
   * Says where the server is, and how to talk to it. Settings that are missing stay as they are; null takes the default
   * back.
   *
   * @param {Configuration} configuration
   */
  configure(configuration) {
    const { baseUrl, apiKey, model, fetch } = checkConfiguration(configuration);
    const before = this.#server;
    this.#server = new Server({
      baseUrl: baseUrl ?? before.baseUrl,
      apiKey: apiKey === undefined ? before.apiKey : apiKey,
      fetch: fetch === undefined ? before.fetch : fetch,
    });
    if (baseUrl !== undefined || apiKey !== undefined) this.#onlyModel.forget();
    if (model !== undefined) this.#model = model;
  }

  /**
   * The models that the server has.
   *
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<ModelInfo[]>}
   */
  async models({ signal } = {}) {
    return modelsOf(this.#server, signal);
  }

  /**
   * Continues a prompt, and waits for all of the text.
   *
   * @param {string} prompt
   * @param {LLMGenerationOptions} [options]
   */
  async generate(prompt, options) {
    return (await this.generateStream(prompt, options)).result;
  }

  /**
   * Continues a prompt; with `systemPrompt`, answers it.
   *
   * @param {string} prompt
   * @param {LLMGenerationOptions} [options]
   * @returns {Promise<LLMStreamingResult>} once the server has accepted the prompt
   */
  async generateStream(prompt, options = {}) {
    if (typeof prompt !== "string") throw invalidValue("prompt", prompt, "a string");
    if (options?.systemPrompt !== undefined && options.systemPrompt !== null) return this.chatStream(prompt, options);
    return this.#start("v1/completions", { ...bodyOf(options, false), prompt }, options);
  }

  /**
   * Answers a conversation, and waits for all of the answer.
   *
   * @param {string | readonly Message[]} messages a string stands for one message of the user
   * @param {LLMGenerationOptions} [options]
   */
  async chat(messages, options) {
    return (await this.chatStream(messages, options)).result;
  }

  /**
   * Answers a conversation.
   *
   * @param {string | readonly Message[]} messages a string stands for one message of the user
   * @param {LLMGenerationOptions} [options]
   * @returns {Promise<LLMStreamingResult>} once the server has accepted the messages
   */
  async chatStream(messages, options = {}) {
    if (typeof messages !== "string" && !Array.isArray(messages)) {
      throw invalidValue("messages", messages, "a string, or a list of messages");
    }
    const body = bodyOf(options, true);
    const said = typeof messages === "string" ? [{ role: "user", content: messages }] : [...messages];
    if (typeof options.systemPrompt === "string") said.unshift({ role: "system", content: options.systemPrompt });
    return this.#start("v1/chat/completions", { ...body, messages: said }, options);
  }

  /**
   * Comes back to a resumable stream, after the page was loaded anew, say. The stream is read from its first token on.
   *
   * @param {string} id
   * @param {ResumingOptions} [options]
   * @returns {Promise<LLMStreamingResult>}
   */
  async resumeStream(id, options = {}) {
    checkResuming(options);
    const server = this.#server;
    const generation = new Generation(server, id, { ...options, resumable: true });
    await generation.connect((signal) => server.request("GET", streamPath(id), { signal }), { isResumed: true });
    return streamingResultOf(generation);
  }

  /**
   * Cancels a stream by its id, whoever reads it.
   *
   * @param {string} id
   * @returns {Promise<boolean>} false where the stream had ended already
   */
  async cancelStream(id) {
    return this.#server.cancelStream(id);
  }

  /**
   * Begins a stream.
   *
   * @param {string} path
   * @param {Record<string, unknown>} body
   * @param {LLMGenerationOptions} options
   */
  async #start(path, body, options) {
    options.signal?.throwIfAborted();
    const named = options.model ?? this.#model;
    const id = options.requestId ?? newId();
    const server = this.#server;
    for (let isLastTry = named !== null; ; isLastTry = true) {
      const model = named ?? (await unlessAborted(this.#onlyModel.find(this.#server), options.signal));
      const generation = new Generation(server, id, options);
      /** @type {Record<string, unknown>} */
      const whole = { ...body, model, stream: true, stream_options: { include_usage: true }, return_token_index: true };
      if (options.onProgress) whole.return_progress = true;
      try {
        await generation.connect((signal) => server.request("POST", path, { body: whole, id, signal }));
        return streamingResultOf(generation);
      } catch (error) {
        if (isLastTry || !(error instanceof NotFoundError) || error.code !== "model_not_found") throw error;
        this.#onlyModel.forget(); // the server has another model by now
      }
    }
  }
}

/** The client that there is from the start. */
export const TextGeneration = new TextGenerationClient();
