/** Reads server-sent events out of bytes that may be cut anywhere. */

/** @import { SseEvent } from "./types.js" */

/** A decoder of one response, by the rules of the HTML standard for server-sent events. */
export class SseDecoder {
  #decoder = new TextDecoder();
  /** The beginning of a line whose end has not come yet. */
  #rest = "";
  /** Whether the text so far ends with a carriage return: a line feed that follows belongs to it, and ends no line. */
  #endsWithReturn = false;
  /** The fields of an event whose end has not come yet. @type {string[]} */
  #data = [];
  #event = "";
  #id = "";

  /**
   * Decodes the next bytes.
   *
   * @param {Uint8Array} bytes
   * @returns {SseEvent[]} the events that are complete with these bytes
   */
  feed(bytes) {
    return this.#lines(this.#decoder.decode(bytes, { stream: true }));
  }

  /** Drops the event that is incomplete, as the standard says for the end of a response. */
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

  /** Takes in one line. @param {string} line @returns {SseEvent | null} the event that the line ends */
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

/** Where the next line ends; -1 where it goes on. @param {string} text @param {number} from */
function nextLineEnd(text, from) {
  for (let at = from; at < text.length; at++) if (text[at] === "\n" || text[at] === "\r") return at;
  return -1;
}
