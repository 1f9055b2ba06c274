/** `SseDecoder`: decodes server-sent events from bytes that may be split anywhere. */

/** @import { SseEvent } from "./types.js" */

/** Decodes one response, by the HTML standard's rules for server-sent events. The bytes may be split anywhere. */
export class SseDecoder {
  #decoder = new TextDecoder();
  /** The beginning of an incomplete line. */
  #rest = "";
  /** Whether the text so far ends with a carriage return: a line feed that follows belongs to the same line end. */
  #endsWithReturn = false;
  /** The fields of the incomplete event. @type {string[]} */
  #data = [];
  #event = "";
  #id = "";

  /**
   * Decode the next bytes.
   *
   * @param {Uint8Array} bytes
   * @returns {SseEvent[]} the events that these bytes complete
   */
  feed(bytes) {
    return this.#lines(this.#decoder.decode(bytes, { stream: true }));
  }

  /** End the response. An incomplete event is dropped, as the standard demands. */
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

  /** @param {string} line @returns {SseEvent | null} the event that the line completes */
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

/** Returns the index of the next line end; -1 if there is none. @param {string} text @param {number} from */
function nextLineEnd(text, from) {
  for (let at = from; at < text.length; at++) if (text[at] === "\n" || text[at] === "\r") return at;
  return -1;
}
