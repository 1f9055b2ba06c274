/** The types of everything that callers pass to the client and get from it, as JSDoc comments. */

/**
 * @typedef {"text" | "thinking" | "tool_call"} TokenKind What a token is part of: the answer, a thought or a tool call.
 * @typedef {"stop" | "length" | "tool_calls" | "cancelled"} FinishReason
 *
 * @typedef {object} ToolCallDelta What one token adds to a tool call.
 * @property {number} index which call of the answer, from 0
 * @property {string | null} id the call's id, in its first delta; null in later ones
 * @property {string | null} name the tool's name, in the call's first delta; null in later ones
 * @property {string} arguments the next part of the arguments' JSON text
 *
 * @typedef {object} TokenPart Text of one kind.
 * @property {string} text
 * @property {TokenKind} kind
 * @property {ToolCallDelta | null} toolCall what the part adds to a tool call, if anything
 *
 * @typedef {object} TokenFields
 * @property {number} index the token's number: 0, 1, 2 ... without gaps
 * @property {number} timestamp when the token arrived, in milliseconds since the epoch
 * @property {boolean} isLast true for the extra token that ends the stream, which the model has not sampled
 * @property {TokenPart[]} rest further parts of other kinds in the same token; almost always empty
 * @typedef {TokenPart & TokenFields} StreamToken One sampled token; its text is "" while the server holds it back.
 *
 * @typedef {object} ToolCall
 * @property {string} id
 * @property {string} name the tool's name
 * @property {string} arguments JSON
 * @property {boolean} isComplete false where the answer was cut off inside the call
 *
 * @typedef {object} Usage Exact counts, in tokens; null where the stream ended before the server could send them.
 * @property {number | null} promptTokens
 * @property {number | null} cachedTokens prompt tokens that were not computed, because their KV was cached
 * @property {number} completionTokens tokens of the answer, thoughts included
 * @property {number} thinkingTokens
 * @property {number | null} totalTokens
 * @property {number | null} cost null where the server knows no prices
 * @property {string | null} currency
 *
 * @typedef {object} Timings Times in milliseconds, measured by the server.
 * @property {number} queueMs waiting for a slot
 * @property {number} prefillMs computing the prompt
 * @property {number} decodeMs generating the answer
 *
 * @typedef {object} LLMGenerationResult
 * @property {string} text the answer, without thoughts and calls
 * @property {string | null} thinking
 * @property {ToolCall[]} toolCalls
 * @property {unknown} parsed the answer as a value, with `jsonSchema`; null if the answer was cut off
 * @property {FinishReason | null} finishReason null in the `partial` of an error
 * @property {number} tokensUsed tokens of the answer, thoughts included
 * @property {number} tokensPerSecond decode speed: tokens after the first over the time after the first
 * @property {number} latencyMs from the call to the end, measured by the client
 * @property {number | null} timeToFirstTokenMs from the call to the first token, measured by the client
 * @property {Usage} usage
 * @property {Timings | null} timings
 * @property {string} model
 * @property {string} id the stream's id
 *
 * @typedef {object} PromptProgress How far the prefill of the prompt has come.
 * @property {number} total tokens of the prompt
 * @property {number} cached of these, tokens that were not computed, because their KV was cached
 * @property {number} processed of these, tokens that are in the KV cache by now, the cached ones included
 * @property {number} timeMs how long the prefill has taken so far
 *
 * @typedef {object} Message A message of a conversation, in OpenAI's format.
 * @property {string} role
 * @property {unknown} content
 * @property {string} [reasoning_content] what the assistant thought
 * @property {unknown[]} [tool_calls] the assistant's calls of tools
 * @property {string} [tool_call_id] in a tool's message: the id of the call that it answers
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
 * @property {string} [systemPrompt] the first message of a chat; with it, a prompt is the user's message in that chat
 * @property {unknown} [jsonSchema]
 * @property {string} [regex]
 * @property {string} [grammar]
 * @property {"split" | "hide" | "raw"} [thinking]
 * @property {number} [thinkingBudget]
 * @property {[string, string]} [thinkingTags]
 * @property {string} [reasoningEffort] for chats only
 * @property {unknown[]} [tools] for chats only
 * @property {unknown} [toolChoice] for chats only
 * @property {boolean} [parallelToolCalls] for chats only
 * @property {Record<string, unknown>} [chatTemplateKwargs] for chats only
 * @property {boolean} [continueFinalMessage] for chats only
 * @property {string} [model]
 * @property {AbortSignal} [signal] aborting it rejects with the signal's reason; `cancel()` ends without an error
 * @property {boolean} [resumable] the client reconnects after a lost connection, without a lost or doubled token
 * @property {number} [reconnectTimeoutMs] how long the client tries to reconnect; 30,000 by default
 * @property {number} [idleTimeoutMs] how long a connection may be silent before it counts as lost; 60,000 by default, 0
 *   for no limit
 * @property {string} [requestId] the stream's id; by default the client makes one
 * @property {(progress: PromptProgress) => void} [onProgress] called during the prefill of the prompt
 * @property {(state: "lost" | "resumed") => void} [onConnection] called when a resumable stream loses its connection,
 *   and when it has a new one
 *
 * @typedef {object} LLMStreamingResult
 * @property {string} id
 * @property {AsyncIterable<string>} stream the answer's text; breaking out of the loop cancels
 * @property {AsyncIterable<StreamToken>} streamEvents whole tokens, then one with `isLast`
 * @property {AsyncIterable<unknown>} objects the value of a JSON answer, each time it has grown
 * @property {Promise<LLMGenerationResult>} result awaiting it reads the stream to its end if nobody iterates
 * @property {() => void} cancel ends the stream; `result` then has the text so far
 *
 * @typedef {object} Configuration
 * @property {string | URL | null} [baseUrl] the server's address; by default the folder that headrace.js came from
 * @property {string | null} [apiKey]
 * @property {string | null} [model] by default the server's only model
 * @property {typeof fetch | null} [fetch] replaces the global `fetch`
 *
 * @typedef {object} ModelInfo
 * @property {string} id
 * @property {number} contextLength in tokens
 *
 * @typedef {object} SseEvent A server-sent event.
 * @property {string} data
 * @property {string} event
 * @property {string} id
 *
 * @typedef {object} ErrorDetails The properties of an error, apart from its message.
 * @property {string | null} [code]
 * @property {LLMGenerationResult | null} [partial]
 * @property {unknown} [cause]
 * @property {number} [status]
 * @property {string | null} [type]
 * @property {string | null} [param]
 * @property {number | null} [retryAfterMs]
 */

export {}; // makes the file a module
