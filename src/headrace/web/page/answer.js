/** `AnswerView`: an answer on the screen, with its thoughts, text, tool calls, metrics and buttons. */

import { placeCaret } from "./caret.js";
import { copyButton } from "./copy.js";
import { button, element } from "./dom.js";
import { createMarkdownView } from "./markdown.js";
import { metricsText } from "./metrics.js";
import { ProblemView } from "./problem.js";
import { ToolCallsView } from "./tool-calls.js";

/** @import { PromptProgress } from "../headrace.js" */
/** @import { Answer, Metrics, ToolResult } from "./conversation.js" */

/** Notes under answers that are not complete, by state. @type {Record<string, string>} */
const MARKS = {
  stopped: "Stopped",
  length: "Cut off at the limit of tokens",
  cut: "Cut off: the server has no more of it",
};

/**
 * @typedef {object} AnswerActions
 * @property {() => void} regenerate
 * @property {(results: ToolResult[]) => boolean} sendResults returns whether they were sent
 */

export class AnswerView {
  /** @param {AnswerActions} actions */
  constructor({ regenerate, sendResults }) {
    this.#problem = new ProblemView(regenerate);
    this.#calls = new ToolCallsView(sendResults);
    this.#copy = copyButton("Copy answer", () => this.#content);
    this.element = element(
      "article",
      { class: "answer", "aria-label": "Answer" },
      this.#body,
      this.#calls.element,
      this.#problem.element,
      element(
        "div",
        { class: "answer-foot" },
        element("span", { class: "figures" }, this.#metrics, this.#connection, this.#mark),
        element("span", { class: "actions" }, this.#copy, button("Regenerate", regenerate, { class: "quiet again" })),
      ),
    );
    this.#markdown = createMarkdownView(this.#text, { onRender: () => this.#onRender() });
  }

  #isWriting = false;
  #content = "";
  #problem;
  #calls;
  #copy;
  #markdown;
  #summary = element("summary", { text: "Thoughts" });
  #thoughts = document.createTextNode("");
  #thinking = element(
    "details",
    { class: "thinking" },
    this.#summary,
    element("div", { class: "thinking-text", dir: "auto" }, this.#thoughts),
  );
  #note = element("span", { class: "note" });
  #progress = element("progress", { "aria-label": "Reading the prompt" });
  #waiting = element("div", { class: "waiting", hidden: true }, this.#note);
  #text = element("div", { class: "answer-text", dir: "auto" });
  #caret = element("span", { class: "caret", "aria-hidden": "true" });
  #body = element("div", { class: "answer-body" }, this.#waiting, this.#text);
  #metrics = element("span", { class: "metrics" });
  #connection = element("span", { class: "connection" });
  #mark = element("span", { class: "mark" });

  /** Show that the answer is being written. */
  begin() {
    this.#isWriting = true;
    this.element.setAttribute("aria-busy", "true");
    this.#body.append(this.#caret);
    placeCaret(this.#caret, this.#text);
  }

  /**
   * Draw the answer so far.
   *
   * @param {Answer} answer
   */
  draw({ content, thinking, toolCalls }) {
    this.#drawThinking(thinking, !content && !toolCalls.length);
    if (content !== this.#content) {
      this.#content = content;
      this.#markdown.update(content, false);
    }
    this.#calls.draw(toolCalls);
  }

  /**
   * Draw a finished answer.
   *
   * @param {Answer} answer
   * @param {ToolResult[]} [results] the results that its tool calls were given
   */
  finish(answer, results = []) {
    this.#body.hidden = !answer.content;
    this.showNote("");
    this.showConnection("");
    this.#drawThinking(answer.thinking, false);
    this.#content = answer.content;
    this.#markdown.update(answer.content, true);
    this.#markdown.flush().finally(() => this.#endWriting());
    this.#calls.finish(answer.toolCalls, results);
    if (answer.metrics) this.showMetrics(answer.metrics);
    this.#mark.textContent = MARKS[answer.state] ?? "";
    this.#copy.hidden = !answer.content;
    if (answer.problem) this.#problem.show(answer.problem);
  }

  /** The answer is finished and drawn. */
  #endWriting() {
    this.#isWriting = false;
    this.element.removeAttribute("aria-busy");
    this.#caret.remove();
  }

  /** @param {Metrics} metrics */
  showMetrics(metrics) {
    // Lines break between figures, never within a figure.
    const figures = metricsText(metrics).split(" · ");
    this.#metrics.replaceChildren(
      ...figures.flatMap((text, index) => [index ? " · " : "", element("span", { class: "figure", text })]),
    );
  }

  /** @param {PromptProgress} progress */
  showProgress({ processed, total }) {
    this.#say(`Reading the prompt: ${Math.floor((100 * processed) / total)} %`);
    this.#progress.max = total;
    this.#progress.value = processed;
    if (!this.#progress.isConnected) this.#waiting.prepend(this.#progress);
  }

  /**
   * Show what the reader waits for, in the place of the text.
   *
   * @param {string} text "" for nothing
   */
  showNote(text) {
    this.#progress.remove();
    this.#say(text);
  }

  /** @param {string} text */
  #say(text) {
    this.#note.textContent = text;
    this.#waiting.hidden = !text;
  }

  /** @param {string} text what is wrong with the connection, "" for nothing */
  showConnection(text) {
    this.#connection.textContent = text;
  }

  /**
   * If the answer fails, show with the problem when to try again.
   *
   * @param {number | null} ms
   */
  countDown(ms) {
    this.#problem.countDown(ms);
  }

  /** Remove the view for good. */
  destroy() {
    this.#markdown.destroy();
    this.element.remove();
  }

  /**
   * @param {string} thinking
   * @param {boolean} isThinking whether the model is still thinking
   */
  #drawThinking(thinking, isThinking) {
    if (!thinking) return;
    if (!this.#thinking.isConnected) this.#body.before(this.#thinking);
    const drawn = this.#thoughts.length;
    if (thinking.length > drawn) this.#thoughts.appendData(thinking.slice(drawn));
    const summary = isThinking ? "Thinking…" : "Thoughts";
    if (this.#summary.textContent !== summary) this.#summary.textContent = summary;
  }

  #onRender() {
    if (this.#isWriting) placeCaret(this.#caret, this.#text);
  }
}
