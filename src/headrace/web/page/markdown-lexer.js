/** The worker that lexes for all answers: one job after the other, and an end to those that take too long. */

import { JOB_MS } from "./markdown-limits.js";

/** @import { Job, Result } from "./markdown-blocks.js" */
/** @import { Reply } from "./markdown-worker.js" */

// For the worker and marked to be loaded; without them there is only plain text.
const LOAD_MS = 10_000;
// After it could not be loaded; the network may be back by then.
const RETRY_MS = 10_000;
// The page itself may have been busy or asleep while the answer came; it is there a moment later.
const GRACE_MS = 50;

const WORKER = new URL("./markdown-worker.js", import.meta.url).href;

/** The job took too long, or more than there is of the stack or the memory. */
export class LexingError extends Error {
  name = "LexingError";
}

/** There is no worker, or no marked: nothing can be lexed. */
export class NoLexerError extends Error {
  name = "NoLexerError";
}

/** @typedef {{ job: Job, resolve: (result: Result) => void, reject: (error: Error) => void }} Waiting */

class MarkdownLexer {
  /** @type {Worker | null} */
  #worker = null;
  /** @type {Waiting[]} the first one is in work */
  #waiting = [];
  #isReady = false;
  /** Until when it is not tried to load the worker; on the clock of `performance.now`. */
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
      // A browser without workers made of modules.
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
 * The address of the worker as the page's policy wants it: from a policy that knows no other.
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
