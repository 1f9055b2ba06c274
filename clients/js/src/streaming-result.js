/** Makes the object that callers get for a stream: three iterables to read it by, its result, and `cancel()`. */

import { LazyPromise } from "./promises.js";
import { objects, texts } from "./token-views.js";

/** @import { Generation } from "./generation.js" */
/** @import { Tokens } from "./token-views.js" */
/** @import { LLMStreamingResult } from "./types.js" */

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
      // Leaving a generator before its first `next()` does not run its `finally`, so cancel here.
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
