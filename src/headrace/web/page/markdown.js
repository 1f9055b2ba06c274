/** Shows growing Markdown without freezing the page: a worker lexes it, and each frame draws a little of it. */

import { inFrames, nextFrame } from "./markdown-frames.js";
import { LexingError, lexer, NoLexerError } from "./markdown-lexer.js";
import { FAILURES, WINDOW } from "./markdown-limits.js";
import { Picture } from "./markdown-picture.js";
import { plainBlocks } from "./markdown-plain.js";
import { loadSanitiser } from "./markdown-safe.js";

/** @import { Definition, Job, Open, Result } from "./markdown-blocks.js" */
/** @import { Sanitise } from "./markdown-safe.js" */

/** A whole text, as plain text. @type {Open} */
const PLAIN = { kind: "plain", toEnd: true, isBegun: false, isLineStart: true };

// A text that takes long to draw is drawn less often: after a draw, the page has this many times its duration free.
const REST = 2;

/** Null if the vendored libraries are not installed. @type {Promise<Sanitise | null> | undefined} */
let sanitiser;

/**
 * What a view has done so far: the number of jobs, and the characters lexed and sanitized for them.
 *
 * @typedef {{ jobs: number, lexed: number, sanitised: number }} Work
 */

/**
 * @typedef {object} MarkdownView
 * @property {(text: string, isFinal: boolean) => void} update shows a text, all of it so far; may be called at any rate
 * @property {() => Promise<void>} flush waits until the last update is shown
 * @property {() => void} destroy ends the view; its elements stay
 * @property {Readonly<Work>} work
 */

/**
 * @param {HTMLElement} container
 * @param {{ onRender?: () => void, plain?: boolean }} [options] `onRender` is called after each frame that
 *   changed the container; `plain` shows plain text
 * @returns {MarkdownView}
 */
export function createMarkdownView(container, { onRender = () => {}, plain = false } = {}) {
  const view = new View(container, onRender, plain);
  return {
    update: (text, isFinal) => view.update(text, isFinal),
    flush: () => view.flush(),
    destroy: () => view.destroy(),
    get work() {
      return view.work;
    },
  };
}

class View {
  /**
   * @param {HTMLElement} container
   * @param {() => void} onRender
   * @param {boolean} isPlain
   */
  constructor(container, onRender, isPlain) {
    this.#picture = new Picture(container);
    this.#onRender = onRender;
    this.#isPlain = isPlain;
  }

  #picture;
  #onRender;
  #isPlain;
  #text = "";
  #isFinal = false;
  #isDestroyed = false;
  // Whether there is more text than is shown.
  #isBehind = false;
  /** @type {Promise<void> | undefined} */
  #running;
  #restUntil = 0;
  #work = { jobs: 0, lexed: 0 };

  // The length of the settled text, and the block that its end is in.
  #settled = "";
  /** @type {Open | null} */
  #open = null;
  #isComplete = false;
  /** @type {Definition[]} */
  #definitions = [];
  #numFailures = 0;
  // Whether the next job is a single paragraph, to find the one that takes too long.
  #isNarrow = false;
  // Whether the whole text is drawn again at its end: for links defined later, and for jobs that may have failed only
  // because the machine was busy.
  #isSecondTime = false;

  get work() {
    return { ...this.#work, sanitised: this.#picture.numSanitised };
  }

  /**
   * @param {string} text
   * @param {boolean} isFinal
   */
  update(text, isFinal) {
    if (this.#isDestroyed) return;
    this.#text = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
    this.#isFinal = isFinal;
    this.#isBehind = true;
    this.#running ??= this.#run();
  }

  async flush() {
    await this.#running;
  }

  destroy() {
    this.#isDestroyed = true;
  }

  async #run() {
    sanitiser ??= loadSanitiser().catch(() => null);
    const sanitise = await sanitiser;
    if (sanitise) this.#picture.sanitise = sanitise;
    else this.#isPlain = true;
    if (this.#isPlain && this.#settled === "") this.#open = PLAIN;
    try {
      while (this.#isBehind && !this.#isDestroyed) {
        this.#isBehind = false;
        await this.#step();
      }
    } finally {
      this.#running = undefined;
    }
  }

  async #step() {
    while (!this.#isFinal && performance.now() < this.#restUntil) await nextFrame();
    const isSame = this.#text === this.#settled && this.#isFinal;
    if (this.#isComplete ? !isSame : !this.#text.startsWith(this.#settled)) {
      this.#isSecondTime = false;
      this.#definitions = [];
      this.#restart();
    }
    if (this.#isComplete) return;
    const { job, isEnd } = this.#nextJob();
    const result = await this.#blocksOf(job);
    if (this.#isDestroyed) return;
    if (!result) {
      this.#isBehind = true;
      return;
    }
    const { blocks, settled, definitions } = result;
    const spent = await inFrames(this.#picture.draw(blocks, settled.blocks, isEnd), this.#onRender);
    this.#settled += job.text.slice(0, settled.length);
    this.#open = settled.open;
    this.#definitions.push(...definitions);
    this.#isNarrow = false;
    if (!isEnd) this.#isBehind = true;
    else if (job.isComplete) this.#complete();
    else this.#restUntil = performance.now() + REST * spent;
  }

  /** @returns {{ job: Job, isEnd: boolean }} `isEnd`: the job reaches the end of the text */
  #nextJob() {
    const rest = this.#text.slice(this.#settled.length);
    const common = { open: this.#open, definitions: this.#definitions };
    const paragraph = this.#isNarrow ? firstParagraph(rest) : null;
    if (paragraph) return { job: { ...common, text: paragraph, isComplete: true }, isEnd: false };
    // A full window is never complete: whether a block is too long must not depend on the time at which it is lexed.
    const isEnd = rest.length < WINDOW;
    return { job: { ...common, text: rest.slice(0, WINDOW), isComplete: this.#isFinal && isEnd }, isEnd };
  }

  /**
   * @param {Job} job
   * @returns {Promise<Result | null>} null if another kind of job is to be tried
   */
  async #blocksOf(job) {
    if (job.open?.kind === "plain" && job.open.toEnd) {
      return { ...plainBlocks(job.text, job.open, job.isComplete), definitions: [] };
    }
    this.#work.jobs += 1;
    this.#work.lexed += job.text.length;
    try {
      return await lexer.run(job);
    } catch (error) {
      if (error instanceof NoLexerError) {
        this.#restart();
        this.#open = PLAIN;
        this.#numFailures = 1; // so that it is tried again at the end
      } else if (error instanceof LexingError) this.#onFailure(job);
      else throw error;
      return null;
    }
  }

  /** @param {Job} job */
  #onFailure({ text }) {
    this.#numFailures += 1;
    const toEnd = this.#numFailures >= FAILURES;
    if (!toEnd && !this.#isNarrow && firstParagraph(text)) {
      this.#isNarrow = true;
      return;
    }
    this.#isNarrow = false;
    const isLineStart = this.#settled === "" || this.#settled.endsWith("\n");
    this.#open = { kind: "plain", toEnd, isBegun: false, isLineStart };
  }

  #complete() {
    this.#isComplete = true;
    if (this.#isSecondTime || !(this.#definitions.length > 0 || this.#numFailures > 0)) return;
    this.#isSecondTime = true;
    this.#isBehind = true;
    this.#restart();
  }

  #restart() {
    this.#settled = "";
    this.#open = this.#isPlain ? PLAIN : null;
    this.#isComplete = false;
    this.#numFailures = 0;
    this.#isNarrow = false;
    this.#picture.restart();
  }
}

/**
 * Returns a text up to its first blank line; null if there is no blank line.
 *
 * @param {string} text
 */
function firstParagraph(text) {
  const blank = /\S[^\n]*\n[ \t]*\n/.exec(text);
  return blank && text.slice(0, blank.index + blank[0].length);
}
