/** `Chat`: the open conversation. Answers of other conversations may still be written in the background. */

import { Conversation } from "./conversation.js";
import { element } from "./dom.js";
import { Thread } from "./thread.js";

/** @import { Summary } from "./conversation.js" */
/** @import { Store } from "./store.js" */
/** @import { Surroundings } from "./thread.js" */

/**
 * @typedef {object} ChatEvents
 * @property {() => void} onChange called when another conversation was opened, and when an answer begins or ends
 * @property {(summaries: Summary[]) => void} onList
 * @property {(text: string) => void} onProblem
 * @property {() => void} onRemoved called when another tab has deleted the open conversation
 */

export class Chat {
  /**
   * @param {Promise<Store>} store
   * @param {Pick<Surroundings, "settings" | "announce" | "onAsk" | "onKeyNeeded">} surroundings
   * @param {ChatEvents} events
   */
  constructor(store, surroundings, events) {
    this.#store = store;
    this.#surroundings = surroundings;
    this.#events = events;
    this.#thread = this.#threadOf(new Conversation());
    this.element.append(this.#thread.element);
    // Another tab may have changed or begun a conversation.
    this.#channel.onmessage = ({ data }) =>
      typeof data?.removed === "string" ? this.#forget(data.removed) : this.list();
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#refresh());
  }

  #store;
  #surroundings;
  #events;
  element = element("div", { class: "chat" });
  #channel = new BroadcastChannel("headrace");
  #thread;
  #opening = 0;
  /** Threads whose answers are being written, by conversation id. @type {Map<string, Thread>} */
  #writing = new Map();
  /** When the reader last changed each conversation, as shown in the list. @type {Map<string, number>} */
  #listed = new Map();
  /** @type {Set<string>} */
  #removed = new Set();
  #isProblemTold = false;

  get isWriting() {
    return this.#thread.isWriting;
  }

  /** The open conversation. */
  get conversation() {
    return this.#thread.conversation;
  }

  /** @param {string} text */
  send(text) {
    return this.#thread.send(text);
  }

  stop() {
    this.#thread.stop();
  }

  /**
   * @param {string | null} id null for a new conversation
   * @returns {Promise<boolean>} false where there is no such conversation
   */
  async open(id) {
    const round = ++this.#opening;
    if (id === this.conversation.id) return true;
    const thread = id === null ? this.#threadOf(new Conversation()) : (this.#writing.get(id) ?? (await this.#load(id)));
    if (round !== this.#opening) return true; // another conversation was asked for meanwhile
    this.#show(thread ?? this.#threadOf(new Conversation()));
    return thread !== null;
  }

  /** @param {string} id */
  async remove(id) {
    await this.#discard(id);
    this.#channel.postMessage({ removed: id });
  }

  /** Report the list of conversations. */
  async list() {
    this.#events.onList((await this.#tried((store) => store.list())) ?? []);
  }

  /**
   * Another tab has deleted a conversation. Delete what this tab has stored of it meanwhile.
   *
   * @param {string} id
   */
  async #forget(id) {
    await this.#discard(id);
    if (id === this.conversation.id) this.#events.onRemoved();
  }

  /** @param {string} id */
  async #discard(id) {
    this.#removed.add(id);
    this.#writing.get(id)?.stop();
    await this.#tried((store) => store.remove(id));
    await this.list();
  }

  /** @param {Thread} thread */
  #show(thread) {
    this.#thread = thread;
    this.element.replaceChildren(thread.element);
    thread.goToEnd();
    this.#events.onChange();
  }

  /** @param {string} id */
  async #load(id) {
    const conversation = Conversation.read(await this.#tried((store) => store.get(id)));
    if (!conversation) return null;
    const thread = this.#threadOf(conversation);
    thread.resume();
    return thread;
  }

  /** Reload the conversation if another tab has changed it. */
  async #refresh() {
    const { id, revision } = this.conversation;
    const stored = Conversation.read(await this.#tried((store) => store.get(id)));
    if (!stored || stored.revision === revision || this.isWriting || id !== this.conversation.id) return;
    const thread = this.#threadOf(stored);
    this.#show(thread);
    thread.resume();
  }

  /** @param {Conversation} conversation */
  #threadOf(conversation) {
    /** @type {Thread} */
    const thread = new Thread(conversation, {
      ...this.#surroundings,
      label: "Conversation",
      keep: () => this.#keep(conversation),
      onChange: () => this.#onThread(thread),
    });
    return thread;
  }

  /** @param {Thread} thread */
  #onThread(thread) {
    const { id } = thread.conversation;
    if (thread.isWriting) this.#writing.set(id, thread);
    else this.#writing.delete(id);
    if (thread === this.#thread) this.#events.onChange();
  }

  /** @param {Conversation} conversation */
  async #keep(conversation) {
    const { id, updated } = conversation;
    if (this.#removed.has(id)) return;
    await this.#tried((store) => store.put(conversation.toRecord()));
    if (this.#listed.get(id) === updated) return;
    this.#listed.set(id, updated);
    this.#channel.postMessage("list");
    await this.list();
  }

  /**
   * @template Result
   * @param {(store: Store) => Promise<Result>} work
   * @returns {Promise<Result | undefined>} undefined where the work failed; the reader is told
   */
  async #tried(work) {
    try {
      return await work(await this.#store);
    } catch (error) {
      // Shown once only: it would come back with each token that cannot be stored.
      if (!this.#isProblemTold)
        this.#events.onProblem(`Conversations cannot be kept: ${error instanceof Error ? error.message : error}`);
      this.#isProblemTold = true;
      return undefined;
    }
  }
}
