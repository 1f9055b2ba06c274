/**
 * Streams of text from a headrace server, for browsers and Node: one module, no dependencies.
 *
 * It is long because it is one: a page gets it with one request, as it is. From the top: types, errors, options, the
 * client, a stream (`Generation`, `Answer`), bytes to events (`SseDecoder`), growing JSON, and what pages need.
 *
 *     import { TextGeneration } from "headrace";
 *     const { stream, result, cancel } = await TextGeneration.generateStream("The sea is", { maxTokens: 40 });
 *     for await (const text of stream) show(text);
 *     console.log((await result).tokensPerSecond);
 */

/**
 * @typedef {"text" | "thinking" | "tool_call"} TokenKind
 * @typedef {"stop" | "length" | "tool_calls" | "cancelled"} FinishReason
 *
 * @typedef {object} ToolCallDelta What a token adds to a tool call.
 * @property {number} index which call of the answer
 * @property {string | null} id with the first piece of a call, else null
 * @property {string | null} name with the first piece of a call, else null
 * @property {string} arguments a piece of the arguments' JSON
 *
 * @typedef {object} TokenPart Text of one kind.
 * @property {string} text
 * @property {TokenKind} kind
 * @property {ToolCallDelta | null} toolCall where the kind is "tool_call"
 *
 * @typedef {object} TokenFields
 * @property {number} index 0, 1, 2 ... without gaps
 * @property {number} timestamp when it arrived, in milliseconds since the epoch
 * @property {boolean} isLast true only for the extra one that ends the stream, which is not a sampled token
 * @property {TokenPart[]} rest text of other kinds that came with the same token; almost always empty
 * @typedef {TokenPart & TokenFields} StreamToken One sampled token; its text is "" while it is held back.
 *
 * @typedef {object} ToolCall
 * @property {string} id
 * @property {string} name
 * @property {string} arguments JSON
 * @property {boolean} isComplete false where the answer was cut off inside it
 *
 * @typedef {object} Usage Exact counts, in tokens; null where the server had no chance to tell them.
 * @property {number | null} promptTokens
 * @property {number | null} cachedTokens
 * @property {number} completionTokens
 * @property {number} thinkingTokens
 * @property {number | null} totalTokens
 * @property {number | null} cost null where the server knows no prices
 * @property {string | null} currency
 *
 * @typedef {object} Timings Measured by the server, in milliseconds.
 * @property {number} queueMs
 * @property {number} prefillMs
 * @property {number} decodeMs
 *
 * @typedef {object} LLMGenerationResult
 * @property {string} text the answer, without thoughts and calls
 * @property {string | null} thinking
 * @property {ToolCall[]} toolCalls
 * @property {unknown} parsed with `jsonSchema`, the answer as a value; null where it was cut off
 * @property {FinishReason | null} finishReason null in the `partial` of an error
 * @property {number} tokensUsed tokens of the answer, thoughts included
 * @property {number} tokensPerSecond decode speed: tokens after the first over the time after the first
 * @property {number} latencyMs from the call to the end, as seen from here
 * @property {number | null} timeToFirstTokenMs from the call to the first token, as seen from here
 * @property {Usage} usage
 * @property {Timings | null} timings
 * @property {string} model
 * @property {string} id
 *
 * @typedef {object} PromptProgress
 * @property {number} total tokens of the prompt
 * @property {number} cached of these, how many were known already
 * @property {number} processed of these, how many are read by now, the cached ones included
 * @property {number} timeMs
 *
 * @typedef {object} Message As OpenAI has it.
 * @property {string} role
 * @property {unknown} content
 * @property {string} [reasoning_content] of an assistant: what it thought
 * @property {unknown[]} [tool_calls] of an assistant
 * @property {string} [tool_call_id] of a tool: which call this is the result of
 *
 * @typedef {object} LLMGenerationOptions
 * @property {number} [maxTokens]
 * @property {number} [temperature]
 * @property {number} [topK]
 * @property {number} [topP]
 * @property {number} [minP]
 * @property {number} [seed]
 * @property {string[]} [stopSequences]
 * @property {number} [repeatPenalty]
 * @property {number} [frequencyPenalty]
 * @property {number} [presencePenalty]
 * @property {Record<string, number>} [logitBias]
 * @property {boolean} [ignoreEos]
 * @property {string} [systemPrompt] what the conversation begins with; with it, a prompt becomes a chat's first message
 * @property {unknown} [jsonSchema]
 * @property {string} [regex]
 * @property {string} [grammar]
 * @property {"split" | "hide" | "raw"} [thinking]
 * @property {number} [thinkingBudget]
 * @property {[string, string]} [thinkingTags]
 * @property {string} [reasoningEffort] chats only, as the rest of these
 * @property {unknown[]} [tools]
 * @property {unknown} [toolChoice]
 * @property {boolean} [parallelToolCalls]
 * @property {Record<string, unknown>} [chatTemplateKwargs]
 * @property {boolean} [continueFinalMessage]
 * @property {string} [model]
 * @property {AbortSignal} [signal] rejects with its reason once aborted; `cancel()` is the quiet way
 * @property {boolean} [resumable] a dropped connection is taken up again, without a lost or doubled token
 * @property {number} [reconnectTimeoutMs] how long that is tried; 30,000 by default
 * @property {number} [idleTimeoutMs] a connection that is silent for so long counts as lost; 60,000 by default, 0: never
 * @property {string} [requestId] a name for the stream; one is made where it is missing
 * @property {(progress: PromptProgress) => void} [onProgress] called while the prompt is read
 * @property {(state: "lost" | "resumed") => void} [onConnection] called when a resumable stream loses its connection
 *
 * @typedef {object} LLMStreamingResult
 * @property {string} id
 * @property {AsyncIterable<string>} stream the answer's text; breaking out of the loop cancels
 * @property {AsyncIterable<StreamToken>} streamEvents whole tokens, then one with `isLast`
 * @property {AsyncIterable<unknown>} objects an answer in JSON as it grows
 * @property {Promise<LLMGenerationResult>} result collects the rest itself where nobody iterates
 * @property {() => void} cancel ends it; `result` then has what was there
 *
 * @typedef {object} Configuration
 * @property {string | URL | null} [baseUrl] where the server is; the folder this module came from by default
 * @property {string | null} [apiKey]
 * @property {string | null} [model] the only one that is served, by default
 * @property {typeof fetch | null} [fetch] another function to make requests with
 *
 * @typedef {object} ModelInfo
 * @property {string} id
 * @property {number} contextLength in tokens
 *
 * @typedef {object} SseEvent
 * @property {string} data
 * @property {string} event
 * @property {string} id
 *
 * @typedef {object} ErrorDetails
 * @property {string | null} [code]
 * @property {LLMGenerationResult | null} [partial]
 * @property {unknown} [cause]
 * @property {number} [status]
 * @property {string | null} [type]
 * @property {string | null} [param]
 * @property {number | null} [retryAfterMs]
 */

// Errors
//
// Error
// └── HeadraceError
//     ├── HttpError                the server answered with an error: .status, .type, .param
//     │   ├── InvalidRequestError  400, 413, 415, 422, 431, and options that were refused here (status 0)
//     │   ├── AuthenticationError  401, 403
//     │   ├── NotFoundError        404, 410
//     │   ├── QueueFullError       429: .retryAfterMs
//     │   └── UnavailableError     503
//     ├── GenerationError          the stream failed after it had begun: .partial
//     │   └── StreamTimeoutError
//     └── ConnectionLostError      the server is out of reach, or its answer broke off: .partial

/** What all errors of this module have in common. */
export class HeadraceError extends Error {
  /** @param {string} message @param {ErrorDetails} [details] */
  constructor(message, details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    /** The kind of error, for programs. */
    this.code = details.code ?? null;
    /** What had come until then. */
    this.partial = details.partial ?? null;
  }
}

/** The server's answer is an error. */
export class HttpError extends HeadraceError {
  /** @param {string} message @param {ErrorDetails} [details] */
  constructor(message, details = {}) {
    super(message, details);
    this.status = details.status ?? 0;
    this.type = details.type ?? null;
    /** The parameter to blame. */
    this.param = details.param ?? null;
    /** After how many milliseconds it is worth another try. */
    this.retryAfterMs = details.retryAfterMs ?? null;
  }
}

/** Something in the request is wrong; the message says what. */
export class InvalidRequestError extends HttpError {}
/** The API key is missing or wrong. */
export class AuthenticationError extends HttpError {}
/** No such model, or no such stream any more. */
export class NotFoundError extends HttpError {}
/** Too many streams wait. */
export class QueueFullError extends HttpError {}
/** The server is loading its model, or shutting down. */
export class UnavailableError extends HttpError {}
/** The stream failed after it had begun. */
export class GenerationError extends HeadraceError {}
/** The stream took longer than the server allows. */
export class StreamTimeoutError extends GenerationError {}
/** The server cannot be reached, or its answer broke off. */
export class ConnectionLostError extends HeadraceError {}

/** @type {Record<number, typeof HttpError>} */
const HTTP_ERRORS = {
  400: InvalidRequestError,
  401: AuthenticationError,
  403: AuthenticationError,
  404: NotFoundError,
  410: NotFoundError,
  413: InvalidRequestError,
  415: InvalidRequestError,
  422: InvalidRequestError,
  429: QueueFullError,
  431: InvalidRequestError,
  503: UnavailableError,
};

// Options

/** What each option is called on the wire. @type {Record<string, string>} */
const SAMPLING = {
  maxTokens: "max_tokens",
  temperature: "temperature",
  topK: "top_k",
  topP: "top_p",
  minP: "min_p",
  seed: "seed",
  stopSequences: "stop",
  repeatPenalty: "repeat_penalty",
  frequencyPenalty: "frequency_penalty",
  presencePenalty: "presence_penalty",
  logitBias: "logit_bias",
  ignoreEos: "ignore_eos",
  jsonSchema: "json_schema",
  regex: "regex",
  grammar: "grammar",
  thinking: "thinking",
  thinkingBudget: "thinking_budget",
  thinkingTags: "thinking_tags",
  resumable: "resumable",
};
/** @type {Record<string, string>} */
const CHAT_ONLY = {
  reasoningEffort: "reasoning_effort",
  tools: "tools",
  toolChoice: "tool_choice",
  parallelToolCalls: "parallel_tool_calls",
  chatTemplateKwargs: "chat_template_kwargs",
  continueFinalMessage: "continue_final_message",
};
/** Options that are not sent, each with the type that it has to have. @type {Record<string, string>} */
const LOCAL = {
  systemPrompt: "string",
  model: "string",
  signal: "object",
  requestId: "string",
  reconnectTimeoutMs: "number",
  idleTimeoutMs: "number",
  onProgress: "function",
  onConnection: "function",
};

/** The most milliseconds that a timer can wait. */
const LONGEST = 2 ** 31 - 1;
/** Milliseconds for which a lost connection is tried again, and pauses between two tries. */
const RECONNECT_TIMEOUT = 30_000;
const RECONNECT_PAUSES = [0, 250, 500, 1000, 2000];
/** Milliseconds of silence after which a connection counts as lost; the server says something every 15 s. */
const IDLE_TIMEOUT = 60_000;
/** Milliseconds after which a new connection counts as one that holds. */
const SETTLED = 1000;
/** Milliseconds that a cancelled stream has to tell its counts. */
const LAST_WORDS_TIMEOUT = 2000;
/** Milliseconds of parsing a growing answer after which it is parsed less often. */
const SLOW_PARSE = 2;
/** Statuses that may be over soon: proxies without a server, servers that start. */
const PASSING_STATUSES = [429, 502, 503, 504];

/** The options that a stream still has when it is come back to. */
const RESUMING = /** @type {const} */ ([
  "idleTimeoutMs",
  "jsonSchema",
  "onConnection",
  "onProgress",
  "reconnectTimeoutMs",
  "signal",
]);

/**
 * The body of a request.
 *
 * @param {LLMGenerationOptions} options
 * @param {boolean} isChat
 * @param {readonly string[]} [allowed] the names of options
 * @returns {Record<string, unknown>}
 */
function bodyOf(options, isChat, allowed) {
  if (typeof options !== "object" || options === null) throw wrong("options", options, "an object");
  const names = isChat ? { ...SAMPLING, ...CHAT_ONLY } : SAMPLING;
  allowed ??= [...Object.keys(names), ...Object.keys(LOCAL)].sort();
  /** @type {Record<string, unknown>} */
  const body = {};
  for (const [option, value] of Object.entries(options)) {
    if (value === undefined || value === null) continue;
    if (!allowed.includes(option)) {
      const isForChats = !isChat && Object.hasOwn(CHAT_ONLY, option);
      const reason = isForChats ? "it is for chats, or prompts with a systemPrompt" : "there is no such option";
      const message = `${option}: ${reason}; allowed: ${allowed.join(", ")}`;
      throw new InvalidRequestError(message, { code: "unknown_option", param: option });
    }
    const name = names[option];
    if (name === undefined) {
      checkLocal(option, value);
    } else {
      checkJson(option, value);
      body[name] = value;
    }
  }
  return body;
}

/**
 * An option that is not sent.
 *
 * @param {string} name
 * @param {unknown} value
 */
function checkLocal(name, value) {
  if (typeof value !== LOCAL[name]) throw wrong(name, value, `a ${LOCAL[name]}`);
  if (name === "signal" && !(value instanceof AbortSignal)) throw wrong(name, value, "an AbortSignal");
  if (name === "requestId" && !/^[\w.:=+@-]{1,128}$/.test(String(value))) {
    throw wrong(name, value, "1 to 128 letters, digits and . _ : = + @ -");
  }
  if (name.endsWith("Ms") && !(Number(value) >= 0 && Number(value) <= LONGEST)) {
    throw wrong(name, value, `milliseconds, 0 to ${LONGEST}`);
  }
}

/**
 * What JSON cannot say would be dropped in silence, or be null.
 *
 * @param {string} name
 * @param {unknown} value
 */
function checkJson(name, value) {
  if (typeof value === "number" && !Number.isFinite(value)) throw wrong(name, value, "a finite number");
  let json;
  try {
    json = JSON.stringify(value);
  } catch {
    // a BigInt, or an object that contains itself
  }
  if (json === undefined) throw wrong(name, value, "a value that JSON can say");
}

/**
 * A header can have no other characters; what there is of them may be a secret, and is not shown.
 *
 * @param {string} name
 * @param {unknown} value
 * @param {string} allowed
 */
function checkHeader(name, value, allowed) {
  if (typeof value === "string" && /^[ -~]+$/.test(value)) return;
  const message = `${name} cannot be sent as it is; allowed: ${allowed}`;
  throw new InvalidRequestError(message, { code: "invalid_value", param: name });
}

/** @param {unknown} value */
function describe(value) {
  try {
    return String(typeof value === "object" ? JSON.stringify(value) : value).slice(0, 100);
  } catch {
    return String(value);
  }
}

/** An id for a request. `crypto.randomUUID` is not there on pages that came over plain HTTP. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether the page is being left: what fails then has not failed. */
let isLeaving = false;
globalThis.addEventListener?.("pagehide", () => {
  isLeaving = true;
});
globalThis.addEventListener?.("pageshow", () => {
  isLeaving = false;
});

/** The folder that this module came from, if it came over HTTP; else where a server is by default. */
function defaultBaseUrl() {
  return /^https?:/.test(import.meta.url) ? new URL("./", import.meta.url).href : "http://127.0.0.1:8080/";
}

// Client

/** A client of one server; `TextGeneration` is one that is there already. */
export class TextGenerationClient {
  #baseUrl = defaultBaseUrl();
  /** @type {string | null} */
  #apiKey = null;
  /** @type {string | null} */
  #model = null;
  /** @type {typeof fetch | null} */
  #fetch = null;
  /** @type {Promise<string> | null} */
  #onlyModel = null;

  /** @param {Configuration} [configuration] */
  constructor(configuration = {}) {
    this.configure(configuration);
  }

  /**
   * Say where the server is, and how to talk to it. What is not given stays as it is; null takes the default back.
   *
   * @param {Configuration} configuration
   */
  configure(configuration) {
    if (typeof configuration !== "object" || configuration === null) {
      throw wrong("configuration", configuration, "an object");
    }
    for (const name of Object.keys(configuration)) {
      if (!["baseUrl", "apiKey", "model", "fetch"].includes(name)) {
        const message = `${name}: there is no such setting; allowed: apiKey, baseUrl, fetch, model`;
        throw new InvalidRequestError(message, { code: "unknown_option", param: name });
      }
    }
    const { baseUrl, apiKey, model, fetch } = configuration;
    if (apiKey !== undefined && apiKey !== null) checkHeader("apiKey", apiKey, "printable ASCII characters");
    if (typeof (model ?? "") !== "string") throw wrong("model", model, "a string");
    if (typeof (fetch ?? globalThis.fetch) !== "function") throw wrong("fetch", fetch, "a function");
    if (baseUrl !== undefined) {
      this.#baseUrl = baseUrl === null ? defaultBaseUrl() : folderOf(baseUrl);
      this.#onlyModel = null;
    }
    if (apiKey !== undefined) {
      this.#apiKey = apiKey;
      this.#onlyModel = null;
    }
    if (model !== undefined) this.#model = model;
    if (fetch !== undefined) this.#fetch = fetch;
  }

  /**
   * The models that are served.
   *
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<ModelInfo[]>}
   */
  async models({ signal } = {}) {
    const answer = await this.#json("GET", "v1/models", { signal });
    /** @type {{ id: string, context_length: number }[]} */
    const models = Array.isArray(answer.data) ? answer.data : [];
    return models.map((model) => ({ id: model.id, contextLength: model.context_length }));
  }

  /**
   * Continue a prompt, and wait for all of it.
   *
   * @param {string} prompt
   * @param {LLMGenerationOptions} [options]
   */
  async generate(prompt, options) {
    return (await this.generateStream(prompt, options)).result;
  }

  /**
   * Continue a prompt, or, with `systemPrompt`, answer it.
   *
   * @param {string} prompt
   * @param {LLMGenerationOptions} [options]
   * @returns {Promise<LLMStreamingResult>} once the server has accepted it
   */
  async generateStream(prompt, options = {}) {
    if (typeof prompt !== "string") throw wrong("prompt", prompt, "a string");
    if (options?.systemPrompt !== undefined && options.systemPrompt !== null) return this.chatStream(prompt, options);
    return this.#start("v1/completions", { ...bodyOf(options, false), prompt }, options);
  }

  /**
   * Answer a conversation, and wait for all of it.
   *
   * @param {string | readonly Message[]} messages a string is the only message, a user's
   * @param {LLMGenerationOptions} [options]
   */
  async chat(messages, options) {
    return (await this.chatStream(messages, options)).result;
  }

  /**
   * Answer a conversation.
   *
   * @param {string | readonly Message[]} messages a string is the only message, a user's
   * @param {LLMGenerationOptions} [options]
   * @returns {Promise<LLMStreamingResult>} once the server has accepted it
   */
  async chatStream(messages, options = {}) {
    if (typeof messages !== "string" && !Array.isArray(messages)) {
      throw wrong("messages", messages, "a string, or a list of messages");
    }
    const body = bodyOf(options, true);
    const said = typeof messages === "string" ? [{ role: "user", content: messages }] : [...messages];
    if (typeof options.systemPrompt === "string") said.unshift({ role: "system", content: options.systemPrompt });
    return this.#start("v1/chat/completions", { ...body, messages: said }, options);
  }

  /**
   * Come back to a resumable stream, from its first token on: after the page was loaded anew, say.
   *
   * @param {string} id
   * @param {Pick<LLMGenerationOptions, (typeof RESUMING)[number]>} [options]
   * @returns {Promise<LLMStreamingResult>}
   */
  async resumeStream(id, options = {}) {
    bodyOf(options, true, RESUMING);
    const client = this.#frozen();
    const generation = new Generation(client, id, { ...options, resumable: true });
    await generation.connect((signal) => client.request("GET", streamPath(id), { signal }), { isResumed: true });
    return generation.handle();
  }

  /**
   * Cancel a stream by its id, whoever reads it.
   *
   * @param {string} id
   * @returns {Promise<boolean>} false where it had ended already
   */
  async cancelStream(id) {
    const answer = await this.#json("DELETE", streamPath(id), { keepalive: true });
    return answer.cancelled === true;
  }

  /**
   * @param {string} path
   * @param {Record<string, unknown>} body
   * @param {LLMGenerationOptions} options
   */
  async #start(path, body, options) {
    options.signal?.throwIfAborted();
    const named = options.model ?? this.#model;
    const id = options.requestId ?? newId();
    const client = this.#frozen();
    for (let isLastTry = named !== null; ; isLastTry = true) {
      const model = named ?? (await unlessAborted(this.#findModel(), options.signal));
      const generation = new Generation(client, id, options);
      /** @type {Record<string, unknown>} */
      const whole = { ...body, model, stream: true, stream_options: { include_usage: true }, return_token_index: true };
      if (options.onProgress) whole.return_progress = true;
      try {
        await generation.connect((signal) => client.request("POST", path, { body: whole, id, signal }));
        return generation.handle();
      } catch (error) {
        if (isLastTry || !(error instanceof NotFoundError) || error.code !== "model_not_found") throw error;
        this.#onlyModel = null; // it has another one by now
      }
    }
  }

  /** A client that stays as this one is now: a stream goes on with the server that it began with. */
  #frozen() {
    return new TextGenerationClient({ baseUrl: this.#baseUrl, apiKey: this.#apiKey, fetch: this.#fetch });
  }

  /** The model that is meant where none is named. @returns {Promise<string>} */
  #findModel() {
    this.#onlyModel ??= this.models().then(
      (models) => {
        if (models.length === 1 && models[0] !== undefined) return models[0].id;
        this.#onlyModel = null;
        const names = models.map((model) => model.id).join(", ");
        const message = `model is missing, and the server has ${models.length}; allowed: ${names || "none yet"}`;
        throw new InvalidRequestError(message, { code: "missing_model", param: "model" });
      },
      (error) => {
        this.#onlyModel = null;
        throw error;
      },
    );
    return this.#onlyModel;
  }

  /**
   * A request whose answer is a JSON object.
   *
   * @param {string} method
   * @param {string} path
   * @param {{ signal?: AbortSignal | undefined, keepalive?: boolean }} options
   * @returns {Promise<Record<string, unknown>>}
   */
  async #json(method, path, { signal, keepalive = false }) {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(silence(IDLE_TIMEOUT)), IDLE_TIMEOUT);
    const either = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
    try {
      const response = await this.request(method, path, { signal: either, keepalive });
      return objectOf(await textOf(response, either));
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * One request; for this module's own use.
   *
   * @internal
   * @param {string} method
   * @param {string} path
   * @param {{ body?: unknown, id?: string, after?: number, signal?: AbortSignal | undefined, keepalive?: boolean }} options
   * @returns {Promise<Response>} one that is no error
   */
  async request(method, path, { body, id, after, signal, keepalive }) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (this.#apiKey !== null) headers.Authorization = `Bearer ${this.#apiKey}`;
    if (id !== undefined) headers["X-Request-Id"] = id;
    if (after !== undefined) headers["Last-Event-ID"] = String(after);
    /** @type {RequestInit} */
    const request = { method, headers, cache: "no-store" };
    if (body !== undefined) request.body = JSON.stringify(body);
    if (signal) request.signal = signal;
    if (keepalive) request.keepalive = true;
    /** @type {Response} */
    let response;
    try {
      response = await (this.#fetch ?? globalThis.fetch)(new URL(path, this.#baseUrl), request);
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw new ConnectionLostError(`${this.#baseUrl} cannot be reached`, { code: "unreachable", cause: error });
    }
    if (!response.ok) throw await httpError(response, signal);
    return response;
  }
}

/** The client that there is from the start. */
export const TextGeneration = new TextGenerationClient();

/** @param {string | URL} url */
function folderOf(url) {
  const text = String(url);
  const location = /** @type {{ location?: { href: string } }} */ (globalThis).location;
  try {
    const folder = new URL(text.endsWith("/") ? text : `${text}/`, location?.href);
    if (/^https?:$/.test(folder.protocol)) return folder.href;
  } catch {
    // said below
  }
  throw wrong("baseUrl", url, "the address of a server, such as http://127.0.0.1:8080");
}

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal} [signal]
 * @returns {Promise<T>}
 */
function unlessAborted(promise, signal) {
  if (!signal) return promise;
  /** @type {PromiseWithResolvers_<never>} */
  const aborted = withResolvers();
  const onAbort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", onAbort);
  return Promise.race([promise, aborted.promise]).finally(() => signal.removeEventListener("abort", onAbort));
}

/** @param {string} id */
function streamPath(id) {
  if (typeof id !== "string" || id === "") throw wrong("id", id, "the id of a stream, a string");
  return `v1/streams/${encodeURIComponent(id)}`;
}

/** @param {string} name @param {unknown} value @param {string} allowed */
function wrong(name, value, allowed) {
  return new InvalidRequestError(`${name} is ${describe(value)}; allowed: ${allowed}`, {
    code: "invalid_value",
    param: name,
  });
}

/** @param {number} ms */
function silence(ms) {
  return new ConnectionLostError(`the server was silent for ${ms} ms`, { code: "silent" });
}

/** @param {Response} response @param {AbortSignal} [signal] */
async function textOf(response, signal) {
  try {
    return await response.text();
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new ConnectionLostError("the connection was lost in mid-answer", { code: "connection_lost", cause: error });
  }
}

/** @param {string} text @returns {Record<string, unknown>} */
function objectOf(text) {
  try {
    const value = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value;
  } catch {
    // said below
  }
  throw new HeadraceError(`this is no answer of a headrace server: ${text.slice(0, 100)}`, { code: "protocol_error" });
}

/** @param {Response} response @param {AbortSignal} [signal] */
async function httpError(response, signal) {
  const { status, headers } = response;
  const text = await textOf(response, signal).catch(() => "");
  /** @type {Record<string, string | null>} */
  let told = {};
  try {
    told = JSON.parse(text).error ?? {};
  } catch {
    // not JSON: a proxy's own page, perhaps
  }
  const seconds = Number(headers.get("Retry-After") ?? Number.NaN);
  const details = {
    status,
    code: told.code ?? null,
    type: told.type ?? null,
    param: told.param ?? null,
    retryAfterMs: Number.isFinite(seconds) ? seconds * 1000 : null,
  };
  const message = told.message ?? `HTTP ${status}: ${text.slice(0, 200) || "no details"}`;
  if (status === 504) return new StreamTimeoutError(message, details);
  return new (HTTP_ERRORS[status] ?? HttpError)(message, details);
}

// One generation

/** One stream, from the request to its end; `handle()` is what the caller sees of it. */
class Generation {
  #client;
  #id;
  #options;
  #started = performance.now();
  #answer = new Answer();
  /** Tokens that nobody has taken yet. @type {StreamToken[]} */
  #queue = [];
  #isEnded = false;
  #isFailed = false;
  /** Whether the server has sent its last event. */
  #isOver = false;
  /** @type {unknown} */
  #error = null;
  /** @type {PromiseWithResolvers_<LLMGenerationResult>} */
  #result = withResolvers();
  #isTaken = false;
  #isCancelled = false;
  /** Settled once nothing more is to be read: at the end, or when it is cancelled. @type {PromiseWithResolvers_<void>} */
  #stopped = withResolvers();
  /** @type {Promise<void> | null} */
  #advancing = null;
  #decoder = new SseDecoder();
  /** @type {ReadableStreamDefaultReader<Uint8Array> | null} */
  #reader = null;
  #connection = new AbortController();
  /** The last event that was seen, of a resumable stream. */
  #lastEvent = 0;
  /** When the current connection was there, and when it was first lost without anything new since. */
  #connected = 0;
  /** @type {number | null} */
  #lost = null;
  #tries = 0;
  #onAbort = () => this.#abort();

  /**
   * @param {TextGenerationClient} client
   * @param {string} id
   * @param {LLMGenerationOptions} options
   */
  constructor(client, id, options) {
    this.#client = client;
    this.#id = id;
    this.#options = options;
    this.#result.promise.catch(() => {}); // whoever wants to know asks
  }

  /**
   * Open the first connection.
   *
   * @param {(signal: AbortSignal) => Promise<Response>} open
   * @param {{ isResumed?: boolean }} [options]
   */
  async connect(open, { isResumed = false } = {}) {
    const { signal } = this.#options;
    signal?.throwIfAborted();
    signal?.addEventListener("abort", this.#onAbort);
    try {
      await this.#open(open, this.#options.idleTimeoutMs ?? IDLE_TIMEOUT);
    } catch (error) {
      signal?.removeEventListener("abort", this.#onAbort);
      if (signal?.aborted) throw signal.reason;
      // It may have begun before the connection broke.
      if (error instanceof ConnectionLostError && !isResumed) this.#disown();
      throw error;
    }
  }

  /**
   * A new connection, or an error after so many milliseconds; 0 for no limit.
   *
   * @param {(signal: AbortSignal) => Promise<Response>} open
   * @param {number} limit
   */
  async #open(open, limit) {
    const connection = new AbortController();
    this.#connection = connection;
    const timer = limit > 0 ? setTimeout(() => connection.abort(silence(limit)), limit) : undefined;
    try {
      this.#read(await open(connection.signal));
    } finally {
      clearTimeout(timer);
    }
  }

  /** @returns {LLMStreamingResult} */
  handle() {
    return {
      id: this.#id,
      stream: this.#iterable(texts),
      streamEvents: this.#iterable((tokens) => tokens),
      objects: this.#iterable(objects),
      result: new LazyPromise(this.#result.promise, () => this.#collect()),
      cancel: () => this.#cancel(),
    };
  }

  /**
   * @template T
   * @param {(tokens: AsyncGenerator<StreamToken, void, undefined>) => AsyncGenerator<T, void, undefined>} view
   * @returns {AsyncIterable<T>}
   */
  #iterable(view) {
    return {
      [Symbol.asyncIterator]: () => {
        const iterator = view(this.#take());
        // A generator that is left before it was asked for anything does not even reach its `finally`.
        for (const name of /** @type {const} */ (["return", "throw"])) {
          const leave = iterator[name].bind(iterator);
          iterator[name] = (/** @type {any} */ value) => {
            this.#cancel();
            return leave(value);
          };
        }
        return iterator;
      },
    };
  }

  /** The only iterator. @returns {AsyncGenerator<StreamToken, void, undefined>} */
  #take() {
    if (this.#isTaken)
      throw new HeadraceError("this stream is already being read; it can be read once", { code: "taken" });
    this.#isTaken = true;
    return this.#tokens();
  }

  /** @returns {AsyncGenerator<StreamToken, void, undefined>} */
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
        } else if (!this.#isEnded) await Promise.race([this.#advance(), this.#stopped.promise]);
        else if (this.#isFailed) throw this.#error;
        else break;
      }
      yield this.#answer.lastToken();
    } finally {
      this.#cancel(); // does nothing after the end
    }
  }

  /** Read it to its end, for whoever waits for the result; tokens wait for whoever may read them later. */
  async #collect() {
    while (!this.#isEnded) await this.#advance();
  }

  /** Take in what comes next; whoever asks meanwhile waits for the same. */
  #advance() {
    this.#advancing ??= this.#step().finally(() => {
      this.#advancing = null;
    });
    return this.#advancing;
  }

  async #step() {
    try {
      const bytes = await this.#nextBytes();
      if (this.#isEnded) return;
      if (bytes === null) await this.#reconnect();
      else for (const event of this.#decoder.feed(bytes)) this.#onEvent(event);
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) this.#disown();
      this.#fail(error);
    }
  }

  /** What the connection brings next; null where it is lost. */
  async #nextBytes() {
    const idle = this.#options.idleTimeoutMs ?? IDLE_TIMEOUT;
    const connection = this.#connection;
    const timer = idle > 0 ? setTimeout(() => connection.abort(new Error(`nothing came for ${idle} ms`)), idle) : null;
    try {
      const { done, value } = (await this.#reader?.read()) ?? { done: true, value: undefined };
      return done ? null : (value ?? new Uint8Array());
    } catch {
      return null;
    } finally {
      if (timer !== null) clearTimeout(timer);
    }
  }

  /** @param {Response} response */
  #read(response) {
    const type = response.headers.get("Content-Type") ?? "";
    if (!/^text\/event-stream\b/i.test(type) || response.body === null) {
      this.#connection.abort();
      const message = `this is no answer of a headrace server: its Content-Type is ${type || "missing"}`;
      throw new HeadraceError(message, { code: "protocol_error" });
    }
    this.#decoder = new SseDecoder();
    this.#reader = response.body.getReader();
    this.#connected = performance.now();
  }

  /** @param {SseEvent} event */
  #onEvent({ data, id }) {
    if (this.#isEnded) return;
    const number = Number(id);
    if (id !== "" && number <= this.#lastEvent) return; // seen before the connection dropped
    if (data === "[DONE]") {
      this.#isOver = true;
      this.#finish(this.#answer.finishReason ?? "stop");
    } else {
      const chunk = chunkOf(data);
      if (chunk === null) throw this.#unreadable(data);
      if (chunk.error) {
        this.#onError(chunk.error);
      } else {
        if (chunk.prompt_progress) this.#options.onProgress?.(progressOf(chunk.prompt_progress));
        const token = this.#taken(chunk, data);
        if (token !== null && !this.#isCancelled) this.#queue.push(token);
      }
    }
    if (id !== "") {
      this.#lastEvent = number;
      this.#lost = null;
    }
  }

  /** @param {Chunk} chunk @param {string} data */
  #taken(chunk, data) {
    try {
      return this.#answer.take(chunk);
    } catch {
      throw this.#unreadable(data); // something in it is not what it should be
    }
  }

  /** @param {string} data */
  #unreadable(data) {
    const message = `this is no event of a headrace server: ${data.slice(0, 100)}`;
    return new HeadraceError(message, { code: "protocol_error", partial: this.#resultOf(null) });
  }

  /** @param {unknown} error as the server tells it */
  #onError(error) {
    this.#isOver = true;
    const told = /** @type {{ message?: unknown, code?: unknown }} */ (typeof error === "object" ? error : {});
    const message = typeof told?.message === "string" ? told.message : `the stream failed: ${describe(error)}`;
    const code = typeof told?.code === "string" ? told.code : null;
    if (this.#isCancelled && code === "cancelled") return this.#finish("cancelled");
    const kind = code === "timeout" ? StreamTimeoutError : GenerationError;
    this.#fail(new kind(message, { code, partial: this.#resultOf(null) }));
  }

  /** The connection is gone before the end was there; find another one. */
  async #reconnect() {
    if (!this.#options.resumable || this.#isCancelled) {
      // All of the answer is here; only what the server had to say of it is not.
      if (this.#answer.finishReason !== null) return this.#finish(this.#answer.finishReason);
      throw new ConnectionLostError("the connection was lost in mid-answer", this.#broken());
    }
    const now = performance.now();
    // One that breaks at once, and brings nothing, is no new beginning.
    if (this.#lost === null || now - this.#connected > SETTLED) {
      this.#lost = now;
      this.#tries = 0;
    }
    this.#options.onConnection?.("lost");
    const end = this.#lost + (this.#options.reconnectTimeoutMs ?? RECONNECT_TIMEOUT);
    /** @type {unknown} */
    let cause;
    for (let left = end - now; left > 0; left = end - performance.now()) {
      const pause = RECONNECT_PAUSES[Math.min(this.#tries++, RECONNECT_PAUSES.length - 1)] ?? 0;
      await this.#pause(Math.min(pause, left));
      if (this.#isEnded || this.#isCancelled) return;
      if (pause >= left) break;
      try {
        const after = this.#lastEvent;
        const open = (/** @type {AbortSignal} */ signal) =>
          this.#client.request("GET", streamPath(this.#id), { after, signal });
        await this.#open(open, Math.max(1, end - performance.now()));
        cause = null;
        break;
      } catch (error) {
        if (this.#isEnded) return;
        cause = error;
        if (!(error instanceof ConnectionLostError) && !PASSING_STATUSES.includes(statusOf(error))) break;
      }
    }
    if (cause === null) return this.#options.onConnection?.("resumed");
    if (this.#answer.finishReason !== null) return this.#finish(this.#answer.finishReason);
    const message = "the connection was lost in mid-answer, and could not be taken up again";
    const reason = cause === undefined ? "it breaks off again and again" : messageOf(cause);
    throw new ConnectionLostError(`${message}: ${reason}`, { ...this.#broken(), cause });
  }

  #broken() {
    return { code: "connection_lost", partial: this.#resultOf(null) };
  }

  /** @param {number} ms */
  async #pause(ms) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const passed = new Promise((resolve) => {
      timer = setTimeout(resolve, ms);
    });
    await Promise.race([passed, this.#stopped.promise]);
    clearTimeout(timer);
  }

  #cancel() {
    if (this.#isEnded || this.#isCancelled) return;
    this.#isCancelled = true;
    this.#queue = [];
    this.#stopped.resolve();
    // The server is told by name, so that it can still say what was used; but it is not waited for for long.
    const timer = setTimeout(() => this.#finish("cancelled"), LAST_WORDS_TIMEOUT);
    this.#client.cancelStream(this.#id).catch(() => this.#finish("cancelled"));
    this.#collect().finally(() => clearTimeout(timer));
  }

  /** The caller's signal was aborted. */
  #abort() {
    if (this.#isEnded) return;
    this.#disown();
    this.#fail(this.#options.signal?.reason);
  }

  /** A resumable stream would go on without us; others end with their connection. */
  #disown() {
    if (this.#options.resumable && !isLeaving) this.#client.cancelStream(this.#id).catch(() => {});
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
    this.#stopped.resolve();
    if (this.#isOver) this.#letGo();
    else this.#connection.abort();
  }

  /** Let the response come to its own end, which is near, so that its connection can be used again. */
  #letGo() {
    const connection = this.#connection;
    const timer = setTimeout(() => connection.abort(), LAST_WORDS_TIMEOUT);
    const read = this.#reader?.read().then(({ done }) => done || connection.abort());
    read?.catch(() => {}).finally(() => clearTimeout(timer));
  }

  /** @param {FinishReason | null} reason @returns {LLMGenerationResult} */
  #resultOf(reason) {
    const answer = this.#answer;
    const hasSchema = this.#options.jsonSchema !== undefined && this.#options.jsonSchema !== null;
    const { usage, timings } = answer;
    const tokensUsed = usage.completionTokens;
    return {
      text: answer.text,
      thinking: answer.thinking,
      toolCalls: answer.toolCalls.map((call) => ({ ...call })),
      parsed: hasSchema && reason === "stop" ? parsedOf(answer.text) : null,
      finishReason: reason,
      tokensUsed,
      tokensPerSecond: answer.tokensPerSecond,
      latencyMs: tenths(performance.now() - this.#started),
      timeToFirstTokenMs: answer.firstTime === null ? null : tenths(answer.firstTime - this.#started),
      usage,
      timings,
      model: answer.model,
      id: this.#id,
    };
  }
}

/** What the chunks of a stream add up to. */
class Answer {
  text = "";
  /** @type {string | null} */
  thinking = null;
  /** @type {ToolCall[]} */
  toolCalls = [];
  model = "";
  /** @type {FinishReason | null} */
  finishReason = null;
  /** @type {Timings | null} */
  timings = null;
  /** @type {number | null} */
  firstTime = null;
  #numTokens = 0;
  #lastTime = 0;
  /** What the server says of its speed. @type {number | null} */
  #speed = null;
  /** @type {Usage | null} */
  #usage = null;
  /** Parts of a token whose last chunk has not come yet. @type {TokenPart[]} */
  #parts = [];

  /** @returns {Usage} */
  get usage() {
    const unknown = { promptTokens: null, cachedTokens: null, totalTokens: null, cost: null, currency: null };
    return this.#usage ?? { ...unknown, completionTokens: this.#numTokens, thinkingTokens: 0 };
  }

  get tokensPerSecond() {
    if (this.#speed !== null) return this.#speed;
    const seconds = (this.#lastTime - (this.firstTime ?? 0)) / 1000;
    return this.#numTokens > 1 && seconds > 0 ? (this.#numTokens - 1) / seconds : 0;
  }

  /**
   * Take a chunk in.
   *
   * @param {Chunk} chunk
   * @returns {StreamToken | null} the token that is complete with it
   */
  take(chunk) {
    this.model ||= chunk.model ?? "";
    if (chunk.usage) this.#usage = usageOf(chunk.usage);
    if (chunk.timings) {
      const { queue_ms: queueMs, prompt_ms: prefillMs, predicted_ms: decodeMs } = chunk.timings;
      this.timings = { queueMs, prefillMs, decodeMs };
      this.#speed = chunk.timings.predicted_per_second;
    }
    const choice = chunk.choices?.[0];
    if (choice === undefined) return null;
    for (const part of partsOf(choice)) this.#add(part);
    if (choice.finish_reason) this.#finish(choice.finish_reason);
    return choice.token_index === undefined || choice.token_index === null ? null : this.#token(choice.token_index);
  }

  /** The one that follows the sampled ones. @returns {StreamToken} */
  lastToken() {
    const index = this.#numTokens;
    return { text: "", kind: "text", index, timestamp: Date.now(), isLast: true, toolCall: null, rest: [] };
  }

  /** @param {TokenPart} part */
  #add(part) {
    if (part.kind === "thinking") this.thinking = (this.thinking ?? "") + part.text;
    else if (part.kind === "text") this.text += part.text;
    else if (part.toolCall !== null) this.#addToCall(part.toolCall);
    const last = this.#parts.at(-1);
    if (last === undefined || last.kind !== part.kind || last.toolCall?.index !== part.toolCall?.index) {
      if (last?.text === "" && last.toolCall === null) this.#parts.pop();
      this.#parts.push(part);
      return;
    }
    last.text += part.text;
    if (last.toolCall && part.toolCall) last.toolCall.arguments += part.toolCall.arguments;
  }

  /** @param {ToolCallDelta} delta */
  #addToCall(delta) {
    const call = this.toolCalls[delta.index];
    if (call !== undefined) {
      call.arguments += delta.arguments;
      return;
    }
    const before = this.toolCalls.at(-1);
    if (before !== undefined) before.isComplete = true;
    this.toolCalls.push({ id: delta.id ?? "", name: delta.name ?? "", arguments: delta.arguments, isComplete: false });
  }

  /** @param {FinishReason} reason */
  #finish(reason) {
    this.finishReason = reason;
    const call = this.toolCalls.at(-1);
    if (call !== undefined) call.isComplete = reason === "tool_calls";
  }

  /** @param {number} index @returns {StreamToken} */
  #token(index) {
    const [first, ...rest] = this.#parts;
    this.#parts = [];
    this.#numTokens = index + 1;
    this.#lastTime = performance.now();
    this.firstTime ??= this.#lastTime;
    const { text, kind, toolCall } = first ?? { text: "", kind: /** @type {const} */ ("text"), toolCall: null };
    return { text, kind, index, timestamp: Date.now(), isLast: false, toolCall, rest };
  }
}

/**
 * @typedef {{ index: number, id?: string, function?: { name?: string, arguments?: string } }} CallDelta
 * @typedef {object} Choice
 * @property {string} [text]
 * @property {{ content?: string | null, reasoning_content?: string | null, tool_calls?: CallDelta[] }} [delta]
 * @property {FinishReason | null} [finish_reason]
 * @property {number | null} [token_index]
 * @typedef {object} WireUsage
 * @property {number} prompt_tokens
 * @property {number} completion_tokens
 * @property {number} total_tokens
 * @property {{ cached_tokens?: number }} [prompt_tokens_details]
 * @property {{ reasoning_tokens?: number }} [completion_tokens_details]
 * @property {number} [cost]
 * @property {string} [cost_currency]
 * @typedef {{ total: number, cache: number, processed: number, time_ms: number }} WireProgress
 * @typedef {object} Chunk
 * @property {string} [model]
 * @property {Choice[]} [choices]
 * @property {WireUsage | null} [usage]
 * @property {WireProgress} [prompt_progress]
 * @property {unknown} [error]
 * @property {{ queue_ms: number, prompt_ms: number, predicted_ms: number, predicted_per_second: number }} [timings]
 */

/** The chunk in an event; null where it is none. @param {string} data @returns {Chunk | null} */
function chunkOf(data) {
  try {
    const value = JSON.parse(data);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/** @param {Choice} choice @returns {TokenPart[]} */
function partsOf({ text, delta = {} }) {
  /** @type {TokenPart[]} */
  const parts = [];
  if (typeof text === "string") parts.push({ text, kind: "text", toolCall: null });
  if (typeof delta.reasoning_content === "string") {
    parts.push({ text: delta.reasoning_content, kind: "thinking", toolCall: null });
  }
  if (typeof delta.content === "string") parts.push({ text: delta.content, kind: "text", toolCall: null });
  if (delta.tool_calls?.length === 0) parts.push({ text: "", kind: "tool_call", toolCall: null });
  for (const { index, id = null, function: called = {} } of delta.tool_calls ?? []) {
    const toolCall = { index, id, name: called.name ?? null, arguments: called.arguments ?? "" };
    parts.push({ text: toolCall.arguments, kind: "tool_call", toolCall });
  }
  return parts;
}

/** @param {WireUsage} usage @returns {Usage} */
function usageOf(usage) {
  return {
    promptTokens: usage.prompt_tokens,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    completionTokens: usage.completion_tokens,
    thinkingTokens: usage.completion_tokens_details?.reasoning_tokens ?? 0,
    totalTokens: usage.total_tokens,
    cost: usage.cost ?? null,
    currency: usage.cost_currency ?? null,
  };
}

/** @param {WireProgress} progress @returns {PromptProgress} */
function progressOf({ total, cache, processed, time_ms: timeMs }) {
  return { total, cached: cache, processed, timeMs };
}

/** What a text says in JSON; null where it is cut off, as by a stop sequence. @param {string} text */
function parsedOf(text) {
  try {
    return /** @type {unknown} */ (JSON.parse(text));
  } catch {
    return null;
  }
}

/** No clock here knows more of a time than that. @param {number} ms */
function tenths(ms) {
  return Math.round(ms * 10) / 10;
}

/** @param {unknown} error */
function statusOf(error) {
  return error instanceof HttpError ? error.status : error instanceof StreamTimeoutError ? 504 : 0;
}

/** @param {unknown} error */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** @param {AsyncGenerator<StreamToken, void, undefined>} tokens @returns {AsyncGenerator<string, void, undefined>} */
async function* texts(tokens) {
  for await (const token of tokens) {
    for (const { kind, text } of [token, ...token.rest]) if (kind === "text" && text !== "") yield text;
  }
}

/** @param {AsyncGenerator<StreamToken, void, undefined>} tokens @returns {AsyncGenerator<unknown, void, undefined>} */
async function* objects(tokens) {
  let text = "";
  let before = "";
  let nextTime = 0;
  const value = () => {
    const started = performance.now();
    const parsed = parsePartialJson(text);
    const json = JSON.stringify(parsed);
    // What takes long, as it has grown long, is done less often.
    const spent = performance.now() - started;
    nextTime = spent > SLOW_PARSE ? started + 10 * spent : 0;
    if (json === undefined || json === before) return undefined;
    before = json;
    return parsed;
  };
  for await (const piece of texts(tokens)) {
    text += piece;
    const now = performance.now() < nextTime ? undefined : value();
    if (now !== undefined) yield now;
  }
  const last = value();
  if (last !== undefined) yield last;
}

/**
 * @template T
 * @typedef {{ promise: Promise<T>, resolve: (value: T) => void, reject: (reason: unknown) => void }} PromiseWithResolvers_
 */

/** @template T @returns {PromiseWithResolvers_<T>} */
function withResolvers() {
  /** @type {Partial<PromiseWithResolvers_<T>>} */
  const made = {};
  made.promise = new Promise((resolve, reject) => {
    made.resolve = resolve;
    made.reject = reject;
  });
  return /** @type {PromiseWithResolvers_<T>} */ (made);
}

/**
 * A promise that sets something going when it is first asked for its value.
 *
 * @template T
 * @extends {Promise<T>}
 */
class LazyPromise extends Promise {
  #promise;
  #start;

  /** What `then` returns is a plain promise. */
  static get [Symbol.species]() {
    return Promise;
  }

  /** @param {Promise<T>} promise @param {() => unknown} start */
  constructor(promise, start) {
    super(() => {}); // never settled itself: `then`, on which all else is built, asks the other one
    this.#promise = promise;
    this.#start = start;
  }

  /**
   * @template [A=T]
   * @template [B=never]
   * @param {((value: T) => A | PromiseLike<A>) | null} [onFulfilled]
   * @param {((reason: unknown) => B | PromiseLike<B>) | null} [onRejected]
   * @returns {Promise<A | B>}
   * @override
   */
  // biome-ignore lint/suspicious/noThenProperty: a promise has one
  then(onFulfilled, onRejected) {
    this.#start();
    return this.#promise.then(onFulfilled, onRejected);
  }
}

// Bytes to events

/** Reads server-sent events out of bytes that may be cut anywhere, by the rules of the HTML standard. */
export class SseDecoder {
  #decoder = new TextDecoder();
  #rest = "";
  /** Whether the last line ended with a carriage return, so that a line feed may follow which ends no other. */
  #endsWithReturn = false;
  /** @type {string[]} */
  #data = [];
  #event = "";
  #id = "";

  /**
   * @param {Uint8Array} bytes
   * @returns {SseEvent[]} the events that are complete with them
   */
  feed(bytes) {
    return this.#lines(this.#decoder.decode(bytes, { stream: true }));
  }

  /** The end: what is incomplete is dropped, as the standard says. */
  flush() {
    this.#lines(this.#decoder.decode());
    this.#rest = "";
    this.#data = [];
  }

  /** @param {string} text */
  #lines(text) {
    /** @type {SseEvent[]} */
    const events = [];
    let start = 0;
    if (this.#endsWithReturn && text !== "") {
      this.#endsWithReturn = false;
      if (text[0] === "\n") start = 1;
    }
    for (;;) {
      const end = nextLineEnd(text, start);
      if (end < 0) break;
      const line = this.#rest + text.slice(start, end);
      this.#rest = "";
      start = end + 1;
      if (text[end] === "\r") {
        if (start === text.length) this.#endsWithReturn = true;
        else if (text[start] === "\n") start++;
      }
      const event = this.#onLine(line);
      if (event !== null) events.push(event);
    }
    this.#rest += text.slice(start);
    return events;
  }

  /** @param {string} line @returns {SseEvent | null} */
  #onLine(line) {
    if (line === "") {
      const event = { data: this.#data.join("\n"), event: this.#event || "message", id: this.#id };
      const isEvent = this.#data.length > 0;
      this.#data = [];
      this.#event = "";
      return isEvent ? event : null;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }
}

/** @param {string} text @param {number} from */
function nextLineEnd(text, from) {
  for (let at = from; at < text.length; at++) if (text[at] === "\n" || text[at] === "\r") return at;
  return -1;
}

// Growing JSON

/**
 * The value of a JSON text that may end anywhere: strings as far as they came, whatever else is incomplete left out.
 *
 * @param {string} text
 * @returns {unknown} undefined where there is nothing yet
 */
export function parsePartialJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    // it ends too early, or is no JSON
  }
  try {
    return JSON.parse(completed(text));
  } catch {
    return undefined;
  }
}

/** Cut a JSON text after the last thing that is complete, and close what is open. @param {string} text */
function completed(text) {
  /** What closes the open objects and lists. @type {string[]} */
  const open = [];
  /** Everything before this is complete, but for the closing of what was open there: the same as is open at the end. */
  let cut = 0;
  // Of an object, whether a key comes next; of a list, never.
  let isKey = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at] ?? "";
    if (character === '"') {
      const end = endOfString(text, at);
      if (end.isComplete) {
        at = end.at;
        if (!isKey) cut = at + 1;
        continue;
      }
      if (isKey) break;
      return `${text.slice(0, end.at)}"${closing(open)}`;
    }
    if (character === "{" || character === "[") {
      open.push(character === "{" ? "}" : "]");
      isKey = character === "{";
      cut = at + 1;
    } else if (character === "}" || character === "]") {
      open.pop();
      isKey = false;
      cut = at + 1;
    } else if (character === ",") {
      isKey = open.at(-1) === "}";
    } else if (character === ":") {
      isKey = false;
    } else if (/[-\w]/.test(character)) {
      const length = /^[-+.\w]+/.exec(text.slice(at))?.[0].length ?? 1;
      if (at + length === text.length) break; // it may go on
      at += length - 1;
      cut = at + 1;
    }
  }
  return text.slice(0, cut) + closing(open);
}

/** What closes all that is open. @param {string[]} open */
function closing(open) {
  return open.toReversed().join("");
}

/**
 * Where a string ends, or how far of it can be used.
 *
 * @param {string} text
 * @param {number} start of its quotation mark
 */
function endOfString(text, start) {
  let usable = start + 1;
  for (let at = start + 1; at < text.length; usable = at) {
    if (text[at] === '"') return { at, isComplete: true };
    if (text[at] !== "\\") at += 1;
    else if (text[at + 1] !== "u") at += 2;
    else at += isFirstHalf(text, at) ? 12 : 6;
    if (at > text.length) return { at: usable, isComplete: false };
  }
  return { at: usable, isComplete: false };
}

/**
 * Whether here is the first of two escapes that only together are a character.
 *
 * @param {string} text
 * @param {number} at
 */
function isFirstHalf(text, at) {
  return /^\\u[dD][89abAB]/.test(text.slice(at, at + 4)) && "\\u".startsWith(text.slice(at + 6, at + 8));
}

// Pages

/**
 * Shows growing text in an element, with one write per frame however many tokens come.
 *
 * @param {{ textContent: string | null }} element
 * @returns {{ append: (text: string) => void, reset: () => void, flush: () => void }}
 */
export function createThrottledUpdater(element) {
  let text = "";
  /** @type {number | null} */
  let frame = null;
  const write = () => {
    frame = null;
    element.textContent = text;
  };
  const unschedule = () => {
    if (frame !== null) cancelAnimationFrame(frame);
    frame = null;
  };
  return {
    append(more) {
      text += more;
      frame ??= requestAnimationFrame(write);
    },
    /** Empty the element at once. */
    reset() {
      unschedule();
      text = "";
      write();
    },
    /** Write now what waits for the next frame. */
    flush() {
      unschedule();
      write();
    },
  };
}
