/** What a caller gets of a stream: three ways to read it, its result, and a way to cancel it. */

import { LazyPromise } from "./promises.js";
import { objects, texts } from "./token-views.js";

/** @import { Generation } from "./generation.js" */
/** @import { LLMStreamingResult } from "./types.js" */
/** @import { Tokens } from "./token-views.js" */

/** @param {Generation} generation @returns {LLMStreamingResult} */
export function streamingResultOf(generation) {
  return {
    id: generation.id,
    stream: iterable(generation, texts),
    streamEvents: iterable(generation, (tokens) => tokens),
    objects: iterable(generation, objects),
    result: new LazyPromise(generation.result, () => generation.collect()),
    cancel: () => generation.cancel(),
  };
}

/**
 * @template T
 * @param {Generation} generation
 * @param {(tokens: Tokens) => AsyncGenerator<T, void, undefined>} view
 * @returns {AsyncIterable<T>}
 */
function iterable(generation, view) {
  return {
    [Symbol.asyncIterator]: () => {
      const iterator = view(generation.take());
      // A generator that is left before it was asked for anything does not even reach its `finally`.
      for (const name of /** @type {const} */ (["return", "throw"])) {
        const leave = iterator[name].bind(iterator);
        iterator[name] = (/** @type {any} */ value) => {
          generation.cancel();
          return leave(value);
        };
      }
      return iterator;
    },
  };
}
