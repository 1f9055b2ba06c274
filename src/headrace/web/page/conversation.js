/** `Conversation`: messages, as they are kept, stored and sent. It has no view. */

import { newId } from "./ids.js";

/**
 * @typedef {{ role: "user", content: string }} Question
 * @typedef {{ role: "tool", callId: string, name: string, content: string }} ToolResult
 * @typedef {{ id: string, name: string, arguments: string, isComplete: boolean }} ToolCall
 * @typedef {{
 *   tokens: number, tokensPerSecond: number | null, firstTokenMs: number | null,
 *   cost: number | null, currency: string | null,
 * }} Metrics
 *
 * An answer is "writing" until it is "done", reached the token limit ("length"), was "stopped" by the reader, "failed",
 * or was "cut" off because the page was left for too long.
 * @typedef {"writing" | "done" | "length" | "stopped" | "failed" | "cut"} AnswerState
 * @typedef {{
 *   role: "assistant", content: string, thinking: string, toolCalls: ToolCall[], state: AnswerState,
 *   streamId: string, problem: string | null, metrics: Metrics | null,
 * }} Answer
 * @typedef {Question | ToolResult | Answer} Message
 *
 * @typedef {{
 *   version: 1, id: string, title: string, updated: number, revision: string, messages: Message[],
 * }} ConversationRecord
 * @typedef {{ id: string, title: string }} Summary
 *
 * @typedef {{
 *   role: string, content: string | null, reasoning_content?: string, tool_calls?: unknown[], tool_call_id?: string,
 * }} WireMessage
 */

const VERSION = 1;
const TITLE_LENGTH = 60;
const STATES = ["writing", "done", "length", "stopped", "failed", "cut"];

export class Conversation {
  /** @param {{ id?: string, updated?: number, revision?: string, messages?: Message[] }} [from] */
  constructor({ id = newId(), updated = 0, revision = "", messages = [] } = {}) {
    this.id = id;
    /** When the reader last changed it; ms since 1970. */
    this.updated = updated;
    /** Differs from the stored revision where another tab has changed the conversation. */
    this.revision = revision;
    this.messages = messages;
  }

  /**
   * Returns the conversation in a stored record; null where the record is not valid.
   *
   * @param {unknown} value
   */
  static read(value) {
    if (!isObject(value) || value.version !== VERSION || !Array.isArray(value.messages)) return null;
    const { id, updated, revision, messages } = value;
    if (typeof id !== "string" || !id || typeof updated !== "number" || typeof revision !== "string") return null;
    if (!messages.every(isMessage)) return null;
    return new Conversation({ id, updated, revision, messages });
  }

  /** @returns {ConversationRecord} */
  toRecord() {
    this.revision = newId();
    const { id, title, updated, revision, messages } = this;
    return { version: VERSION, id, title, updated, revision, messages };
  }

  /** The first line of the first question. */
  get title() {
    const question = this.messages.find((message) => message.role === "user");
    const line = question?.content.trim().split("\n", 1)[0].trim() ?? "";
    const characters = Array.from(line);
    return characters.length > TITLE_LENGTH ? `${characters.slice(0, TITLE_LENGTH - 1).join("")}…` : line || "Untitled";
  }

  /** @param {Message} message */
  add(message) {
    this.messages.push(message);
    if (message.role !== "assistant") this.updated = Date.now();
  }

  /** Add a new, empty answer. */
  addAnswer() {
    /** @type {Answer} */
    const answer = {
      role: "assistant",
      content: "",
      thinking: "",
      toolCalls: [],
      state: "writing",
      streamId: newId(),
      problem: null,
      metrics: null,
    };
    this.add(answer);
    return answer;
  }

  /**
   * Delete a message and all that follow it.
   *
   * @param {Message} message
   */
  cutAt(message) {
    const index = this.messages.indexOf(message);
    if (index < 0) throw new Error("the message is not of this conversation");
    this.messages.length = index;
    this.updated = Date.now();
  }

  /**
   * Returns the results that an answer's tool calls were given.
   *
   * @param {Answer} answer
   * @returns {ToolResult[]}
   */
  resultsOf(answer) {
    const results = [];
    for (const message of this.messages.slice(this.messages.indexOf(answer) + 1)) {
      if (message.role !== "tool") break;
      results.push(message);
    }
    return results;
  }

  /**
   * Returns the messages for the server. Empty answers are left out together with their questions, because many chat
   * templates require that questions and answers alternate.
   *
   * @param {string} systemPrompt
   * @returns {WireMessage[]}
   */
  toWire(systemPrompt) {
    const sayable = this.messages.flatMap(toWire);
    const wire = sayable.filter(({ role }, index) => role !== "user" || sayable[index + 1]?.role !== "user");
    return systemPrompt ? [{ role: "system", content: systemPrompt }, ...wire] : wire;
  }
}

/**
 * @param {Message} message
 * @returns {WireMessage[]}
 */
function toWire(message) {
  if (message.role === "user") return [{ role: "user", content: message.content }];
  if (message.role === "tool") return [{ role: "tool", content: message.content, tool_call_id: message.callId }];
  const { content, thinking, toolCalls } = message;
  const calls = toolCalls
    .filter((call) => call.isComplete)
    .map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
  if (!content && !calls.length) return [];
  return [
    {
      role: "assistant",
      content: content || null,
      ...(thinking && { reasoning_content: thinking }),
      ...(calls.length && { tool_calls: calls }),
    },
  ];
}

/**
 * @param {unknown} value
 * @returns {value is Record<string, unknown>}
 */
function isObject(value) {
  return typeof value === "object" && value !== null;
}

/**
 * @param {unknown} value
 * @returns {value is Message}
 */
function isMessage(value) {
  if (!isObject(value) || typeof value.content !== "string") return false;
  if (value.role === "user") return true;
  if (value.role === "tool") return typeof value.callId === "string" && typeof value.name === "string";
  return (
    value.role === "assistant" &&
    typeof value.thinking === "string" &&
    typeof value.streamId === "string" &&
    typeof value.state === "string" &&
    STATES.includes(value.state) &&
    (value.problem === null || typeof value.problem === "string") &&
    (value.metrics === null || isMetrics(value.metrics)) &&
    Array.isArray(value.toolCalls) &&
    value.toolCalls.every(isToolCall)
  );
}

/** @param {unknown} value */
function isToolCall(value) {
  return (
    isObject(value) &&
    ["id", "name", "arguments"].every((key) => typeof value[key] === "string") &&
    typeof value.isComplete === "boolean"
  );
}

/** @param {unknown} value */
function isMetrics(value) {
  return (
    isObject(value) &&
    typeof value.tokens === "number" &&
    ["tokensPerSecond", "firstTokenMs", "cost"].every((key) => value[key] === null || typeof value[key] === "number") &&
    (value.currency === null || typeof value.currency === "string")
  );
}
