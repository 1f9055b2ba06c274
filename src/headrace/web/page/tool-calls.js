/** `ToolCallsView`: the tool calls of an answer, with their results or fields to enter them. */

import { button, element } from "./dom.js";
import { newId } from "./ids.js";

/** @import { ToolCall, ToolResult } from "./conversation.js" */

export class ToolCallsView {
  /** @param {(results: ToolResult[]) => boolean} onResults returns whether they were sent */
  constructor(onResults) {
    this.#onResults = onResults;
  }

  element = element("div", { class: "tool-calls" });
  #onResults;
  /** @type {CallView[]} */
  #calls = [];

  /**
   * Draw tool calls that are being written.
   *
   * @param {ToolCall[]} calls
   */
  draw(calls) {
    for (const [index, call] of calls.entries()) {
      if (index === this.#calls.length) {
        const view = new CallView(call.name);
        this.#calls.push(view);
        this.element.append(view.element);
      }
      this.#calls[index].draw(call.arguments);
    }
  }

  /**
   * Draw finished tool calls.
   *
   * @param {ToolCall[]} calls
   * @param {ToolResult[]} results the results that were sent
   */
  finish(calls, results) {
    this.draw(calls);
    const open = [];
    for (const [index, call] of calls.entries()) {
      const result = results.find((one) => one.callId === call.id);
      this.#calls[index].finish(call);
      if (result) this.#calls[index].showResult(result.content);
      else if (call.isComplete) open.push({ call, input: this.#calls[index].askForResult() });
    }
    if (open.length && !results.length) this.element.append(this.#sendButton(open));
  }

  /** @param {{ call: ToolCall, input: HTMLTextAreaElement }[]} open */
  #sendButton(open) {
    const send = button("Send results", () => {
      const results = open.map(({ call, input }) => ({
        role: /** @type {const} */ ("tool"),
        callId: call.id,
        name: call.name,
        content: input.value,
      }));
      if (!this.#onResults(results)) return; // the typed results stay
      send.remove();
      for (const [index, { call }] of open.entries()) this.#showResultOf(call, results[index].content);
    });
    send.classList.add("send-results");
    return send;
  }

  /**
   * @param {ToolCall} call
   * @param {string} result
   */
  #showResultOf(call, result) {
    this.#calls.find((view) => view.id === call.id)?.showResult(result);
  }
}

class CallView {
  /** @param {string} name */
  constructor(name) {
    this.#name = name;
    this.element = element(
      "div",
      { class: "tool-call" },
      element("p", { class: "tool-name" }, "Tool call ", element("code", { text: name })),
      element("pre", {}, element("code", {}, this.#arguments)),
      this.#result,
    );
  }

  id = "";
  #name;
  #arguments = document.createTextNode("");
  #result = element("div", { class: "tool-result" });

  /** @param {string} text */
  draw(text) {
    if (text.length > this.#arguments.length) this.#arguments.appendData(text.slice(this.#arguments.length));
  }

  /** @param {ToolCall} call */
  finish(call) {
    this.id = call.id;
    this.#arguments.data = indented(call.arguments);
    if (!call.isComplete) this.#result.replaceChildren(element("p", { class: "mark", text: "This call is cut off." }));
  }

  /** Returns a field for the result. */
  askForResult() {
    const id = newId();
    const input = element("textarea", { id, rows: 2, dir: "auto" });
    this.#result.replaceChildren(element("label", { for: id, text: `Result of ${this.#name}` }), input);
    return input;
  }

  /** @param {string} text */
  showResult(text) {
    this.#result.replaceChildren(
      element("p", { class: "tool-name", text: "Result" }),
      element("pre", {}, element("code", { dir: "auto", text: text || "(empty)" })),
    );
  }
}

/** @param {string} json */
function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // cut off
  }
}
