/** The types of everything that callers give to the client and get from it; all of them are in comments. */

/**
 * @typedef {"text" | "thinking" | "tool_call"} TokenKind What a token is part of: the answer, a thought or a tool call.
 * @typedef {"stop" | "length" | "tool_calls" | "cancelled"} FinishReason
 *
 * @typedef {object} ToolCallDelta What one token adds to a tool call.
 * @property {number} index the number of the call in the answer, from 0
 * @property {string | null} id the call's id, in the call's first piece; null in later pieces
 * @property {string | null} name the tool's name, in the call's first piece; null in later pieces
 * @property {string} arguments a piece of the JSON text of the arguments
 *
 * @typedef {object} TokenPart Text of one kind.
 * @property {string} text
 * @property {TokenKind} kind
 * @property {ToolCallDelta | null} toolCall what a text of the kind "tool_call" adds to its call, if anything
 *
 * @typedef {object} TokenFields
 * @property {number} index the token's number: 0, 1, 2 ... without gaps
 * @property {number} timestamp when the token arrived, in milliseconds since the epoch
 * @property {boolean} isLast true for one extra token that ends the stream; the model has not sampled that one
 * @property {TokenPart[]} rest texts of other kinds that came with the same token; almost always empty
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
 * @property {number | null} cachedTokens tokens of the prompt that the server did not need to read again
 * @property {number} completionTokens tokens of the answer, thoughts included
 * @property {number} thinkingTokens
 * @property {number | null} totalTokens
 * @property {number | null} cost null where the server knows no prices
 * @property {string | null} currency
 *
 * @typedef {object} Timings Times in milliseconds, measured by the server.
 * @property {number} queueMs how long the request waited for its turn
 * @property {number} prefillMs how long the model read the prompt
 * @property {number} decodeMs how long the model wrote the answer
 *
 * @typedef {object} LLMGenerationResult
 * @property {string} text the answer, without thoughts and calls
 * @property {string | null} thinking
 * @property {ToolCall[]} toolCalls
 * @property {unknown} parsed with `jsonSchema`, the answer as a value; null where the answer was cut off
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
 * @typedef {object} PromptProgress How much of the prompt the model has read.
 * @property {number} total tokens of the prompt
 * @property {number} cached how many of them the server knew already
 * @property {number} processed how many of them are read by now, the cached ones included
 * @property {number} timeMs how long the reading has taken so far
 *
 * @typedef {object} Message A message of a conversation, in OpenAI's format.
 * @property {string} role
 * @property {unknown} content
 * @property {string} [reasoning_content] what the assistant thought
 * @property {unknown[]} [tool_calls] the assistant's calls of tools
 * @property {string} [tool_call_id] in a tool's message: the id of the call that the message is the result of
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
 * @property {string} [systemPrompt] the conversation's first message; it makes a prompt the user's message in a chat
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
 * @property {AbortSignal} [signal] aborting it rejects with the signal's reason; `cancel()` ends a stream quietly
 * @property {boolean} [resumable] the client takes up a dropped connection again, without a lost or doubled token
 * @property {number} [reconnectTimeoutMs] how long the client tries that; 30,000 by default
 * @property {number} [idleTimeoutMs] a connection that is silent for so long counts as lost; 60,000 by default, 0: never
 * @property {string} [requestId] a name for the stream; the client makes one where it is missing
 * @property {(progress: PromptProgress) => void} [onProgress] called while the model reads the prompt
 * @property {(state: "lost" | "resumed") => void} [onConnection] called when a resumable stream loses its connection, and
 *   when it has a new one
 *
 * @typedef {object} LLMStreamingResult
 * @property {string} id
 * @property {AsyncIterable<string>} stream the answer's text; breaking out of the loop cancels
 * @property {AsyncIterable<StreamToken>} streamEvents whole tokens, then one with `isLast`
 * @property {AsyncIterable<unknown>} objects an answer in JSON as it grows
 * @property {Promise<LLMGenerationResult>} result the result; waiting for it reads the stream where nobody iterates
 * @property {() => void} cancel ends the stream; `result` then has what had come until then
 *
 * @typedef {object} Configuration
 * @property {string | URL | null} [baseUrl] the server's address; by default the folder that headrace.js came from
 * @property {string | null} [apiKey]
 * @property {string | null} [model] by default the only model that the server has
 * @property {typeof fetch | null} [fetch] another function to make requests with
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
 * @typedef {object} ErrorDetails What an error of this package is made with, apart from its message.
 * @property {string | null} [code]
 * @property {LLMGenerationResult | null} [partial]
 * @property {unknown} [cause]
 * @property {number} [status]
 * @property {string | null} [type]
 * @property {string | null} [param]
 * @property {number | null} [retryAfterMs]
 */

export {}; // makes the file a module
