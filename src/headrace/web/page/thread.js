/** `Thread`: a conversation on the screen. It sends messages, edits and regenerates them, and writes answers. */

import { TextGeneration } from "../headrace.js";
import { beginningOf } from "./announce.js";
import { AnswerView } from "./answer.js";
import { button, element } from "./dom.js";
import { Follower } from "./follow.js";
import { MessageView } from "./message.js";
import { Writer } from "./writer.js";

/** @import { LLMGenerationOptions } from "../headrace.js" */
/** @import { Answer, Conversation, Message, Question, ToolResult } from "./conversation.js" */

/**
 * What a thread needs from the page.
 *
 * @typedef {object} Surroundings
 * @property {string} label the thread's name for screen readers
 * @property {() => { options: LLMGenerationOptions, systemPrompt: string } | null} settings of the next answer; null
 *   if they are invalid, which the page has shown
 * @property {(conversation: Conversation) => void} keep stores the conversation
 * @property {() => void} onAsk called when a message was sent, by any button
 * @property {() => void} onChange called when an answer begins and when it ends
 * @property {(text: string) => void} announce
 * @property {() => Promise<void>} onKeyNeeded called when the server asks for another API key; resolves when it may
 *   have changed
 */

export class Thread {
  /**
   * @param {Conversation} conversation
   * @param {Surroundings} surroundings
   */
  constructor(conversation, surroundings) {
    this.conversation = conversation;
    this.#surroundings = surroundings;
    this.#log.setAttribute("aria-label", surroundings.label);
    this.#follower = new Follower(this.#log, this.#content, this.#toEnd);
    for (const message of conversation.messages) this.#show(message);
  }

  #surroundings;
  #content = element("div", { class: "log-content" });
  #log = element("div", { class: "log", role: "log", "aria-live": "off", tabindex: 0 }, this.#content);
  #toEnd = button("Scroll to the end", () => {}, { class: "to-end", hidden: true });
  element = element("div", { class: "thread" }, this.#log, this.#toEnd);
  #follower;
  /** @type {Map<Message, AnswerView | MessageView>} */
  #views = new Map();
  /** @type {Writer | null} */
  #writer = null;

  get isWriting() {
    return this.#writer !== null;
  }

  /**
   * Send a message.
   *
   * @param {string} text
   * @returns {boolean} whether it was sent
   */
  send(text) {
    return this.#ask(() => this.#add({ role: "user", content: text }));
  }

  /** Resume an answer that was being written when the page was left. */
  resume() {
    const answer = this.conversation.messages.at(-1);
    if (answer?.role !== "assistant" || answer.state !== "writing") return;
    const view = this.#views.get(answer);
    if (!(view instanceof AnswerView)) return;
    this.#write(answer, view, null);
  }

  /** Stop the answer that is being written. Its text so far stays. */
  stop() {
    this.#writer?.stop();
  }

  /** Scroll to the end, when the thread comes back to the screen. */
  goToEnd() {
    this.#follower.goToEnd();
  }

  /**
   * Change the conversation with `change`, then have it answered.
   *
   * @param {() => void} change
   */
  #ask(change) {
    const settings = this.isWriting ? null : this.#surroundings.settings();
    if (!settings) return false;
    change();
    const messages = this.conversation.toWire(settings.systemPrompt);
    const answer = this.conversation.addAnswer();
    const view = this.#showAnswer(answer);
    this.#surroundings.keep(this.conversation);
    this.#write(answer, view, (hooks) =>
      TextGeneration.chatStream(messages, {
        ...settings.options,
        ...hooks,
        resumable: true,
        requestId: answer.streamId,
      }),
    );
    this.#surroundings.onAsk();
    return true;
  }

  /**
   * @param {Answer} answer
   * @param {AnswerView} view
   * @param {import("./writer.js").WriterOptions["open"]} open
   */
  async #write(answer, view, open) {
    const { announce, keep, onChange, onKeyNeeded } = this.#surroundings;
    const writer = new Writer({
      answer,
      view,
      open,
      onKeyNeeded,
      keep: () => this.#views.has(answer) && keep(this.conversation),
    });
    this.#writer = writer;
    this.#content.classList.add("is-writing");
    this.#follower.goToEnd();
    announce("Writing an answer");
    onChange();
    await writer.run();
    if (answer.state === "stopped") announce("Answer stopped");
    else if (answer.state !== "failed") announce(`Answer finished: ${beginningOf(answer.content)}`);
    this.#writer = null;
    this.#content.classList.remove("is-writing");
    onChange();
  }

  /** @param {Message} message */
  #add(message) {
    this.conversation.add(message);
    this.#show(message);
  }

  /** @param {Message} message */
  #show(message) {
    if (message.role === "assistant") {
      this.#showAnswer(message);
    } else if (message.role === "user") {
      const view = new MessageView(message.content, (text) => this.#edit(message, text));
      this.#views.set(message, view);
      this.#content.append(view.element);
    } // a tool's result is shown with its call
  }

  /** @param {Answer} answer */
  #showAnswer(answer) {
    const view = new AnswerView({
      regenerate: () => this.#regenerate(answer),
      sendResults: (results) => this.#sendResults(results),
    });
    if (answer.state !== "writing") view.finish(answer, this.conversation.resultsOf(answer));
    this.#views.set(answer, view);
    this.#content.append(view.element);
    return view;
  }

  /**
   * @param {Question} question
   * @param {string} text
   * @returns {string} why it was not sent, or ""
   */
  #edit(question, text) {
    if (this.isWriting) return "An answer is being written. Stop it or wait for its end, and send this then.";
    const isSent = this.#ask(() => {
      this.#cutAt(question);
      this.#add({ role: "user", content: text });
    });
    return isSent ? "" : "It is not sent: a setting is wrong.";
  }

  /** @param {Answer} answer */
  #regenerate(answer) {
    this.#ask(() => this.#cutAt(answer));
  }

  /** @param {ToolResult[]} results */
  #sendResults(results) {
    return this.#ask(() => results.map((result) => this.#add(result)));
  }

  /** @param {Message} message */
  #cutAt(message) {
    const { messages } = this.conversation;
    for (const gone of messages.slice(messages.indexOf(message))) {
      this.#views.get(gone)?.destroy();
      this.#views.delete(gone);
    }
    this.conversation.cutAt(message);
  }
}
