/** The lexer of all answers: gives a worker one job after the other, and ends jobs that take too long. */

import { JOB_MS } from "./markdown-limits.js";

/** @import { Job, Result } from "./markdown-blocks.js" */
/** @import { Reply } from "./markdown-worker.js" */

// Time for loading the worker and marked. Without them, text is shown as plain text.
const LOAD_MS = 10_000;
// Time until the next try to load them, when the network may be back.
const RETRY_MS = 10_000;
// The worker's reply may wait in a busy or sleeping page. It is then handled within this time.
const GRACE_MS = 50;

const WORKER = new URL("./markdown-worker.js", import.meta.url).href;

/** The job took too long, or exceeded the stack or the memory. */
export class LexingError extends Error {
  name = "LexingError";
}

/** The worker or marked cannot be loaded, so nothing can be lexed. */
export class NoLexerError extends Error {
  name = "NoLexerError";
}

/** @typedef {{ job: Job, resolve: (result: Result) => void, reject: (error: Error) => void }} Waiting */

class MarkdownLexer {
  /** @type {Worker | null} */
  #worker = null;
  /** @type {Waiting[]} the first one is running */
  #waiting = [];
  #isReady = false;
  /** No try to load the worker before this time; on the clock of `performance.now`. */
  #missingUntil = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #numEnded = 0;

  /** How many workers were ended because of a job. */
  get numEnded() {
    return this.#numEnded;
  }

  /**
   * @param {Job} job
   * @returns {Promise<Result>}
   */
  run(job) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ job, resolve, reject });
      if (performance.now() < this.#missingUntil) this.#refuse();
      else if (!this.#worker) this.#start();
      else if (this.#isReady && this.#waiting.length === 1) this.#post();
    });
  }

  #start() {
    try {
      this.#worker = new Worker(trusted(WORKER), { type: "module" });
    } catch {
      // The browser does not support module workers.
      this.#missingUntil = Infinity;
      this.#refuse();
      return;
    }
    this.#worker.onmessage = ({ data }) => this.#onReply(data);
    this.#worker.onerror = () => this.#onError();
    this.#timer = setTimeout(() => this.#miss(), LOAD_MS);
  }

  #post() {
    this.#worker?.postMessage(this.#waiting[0].job);
    this.#timer = setTimeout(() => {
      this.#timer = setTimeout(() => this.#end(`it took more than ${JOB_MS} ms`), GRACE_MS);
    }, JOB_MS);
  }

  /** @param {Reply} reply */
  #onReply(reply) {
    clearTimeout(this.#timer);
    if (reply.kind === "ready") this.#isReady = true;
    else if (reply.kind === "result") this.#waiting.shift()?.resolve(reply.result);
    else this.#waiting.shift()?.reject(new LexingError(reply.message));
    if (this.#waiting.length > 0) this.#post();
  }

  #onError() {
    if (this.#isReady) this.#end("the worker failed");
    else this.#miss();
  }

  /** @param {string} reason */
  #end(reason) {
    this.#stop();
    this.#numEnded += 1;
    this.#waiting.shift()?.reject(new LexingError(reason));
    if (this.#waiting.length > 0) this.#start();
  }

  #miss() {
    this.#stop();
    this.#missingUntil = performance.now() + RETRY_MS;
    this.#refuse();
  }

  #refuse() {
    for (const { reject } of this.#waiting.splice(0))
      reject(new NoLexerError("there is no worker that lexes Markdown"));
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#worker?.terminate();
    this.#worker = null;
    this.#isReady = false;
  }
}

/**
 * Returns the worker's address as the Content-Security-Policy requires: from a trusted-types policy for this URL only.
 *
 * @param {string} url
 */
function trusted(url) {
  policy ??= trustedTypes?.createPolicy("headrace-worker", {
    createScriptURL(/** @type {string} */ asked) {
      if (asked !== WORKER) throw new TypeError(`a worker from ${asked} is not allowed, only ${WORKER}`);
      return asked;
    },
  });
  return /** @type {string} */ (policy ? policy.createScriptURL(url) : url);
}

/** @type {{ createPolicy(name: string, rules: object): { createScriptURL(url: string): unknown } } | undefined} */
const trustedTypes = Reflect.get(globalThis, "trustedTypes");
/** @type {{ createScriptURL(url: string): unknown } | undefined} */
let policy;

export const lexer = new MarkdownLexer();
