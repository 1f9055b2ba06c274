/** Helpers for promises: resolvers, abort by a signal, and `LazyPromise`, which starts its work when first awaited. */

/**
 * @template T
 * @typedef {{ promise: Promise<T>, resolve: (value: T) => void, reject: (reason: unknown) => void }} Resolvers
 */

/**
 * Make a promise with the functions that settle it. (`Promise.withResolvers` needs Node 22.)
 *
 * @template T
 * @returns {Resolvers<T>}
 */
export function withResolvers() {
  /** @type {Partial<Resolvers<T>>} */
  const resolvers = {};
  resolvers.promise = new Promise((resolve, reject) => {
    resolvers.resolve = resolve;
    resolvers.reject = reject;
  });
  return /** @type {Resolvers<T>} */ (resolvers);
}

/**
 * Settle as the promise does, or reject with the signal's reason as soon as the signal is aborted.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal} [signal]
 * @returns {Promise<T>}
 */
export function unlessAborted(promise, signal) {
  if (!signal) return promise;
  /** @type {Resolvers<never>} */
  const aborted = withResolvers();
  const onAbort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", onAbort);
  return Promise.race([promise, aborted.promise]).finally(() => signal.removeEventListener("abort", onAbort));
}

/**
 * A promise that calls a function when somebody awaits it.
 *
 * @template T
 * @extends {Promise<T>}
 */
export class LazyPromise extends Promise {
  #promise;
  #start;

  /** `then` returns plain promises. */
  static get [Symbol.species]() {
    return Promise;
  }

  /**
   * @param {Promise<T>} promise settles this one
   * @param {() => unknown} start called at each `then`
   */
  constructor(promise, start) {
    // This object itself stays pending: `await`, `catch` and `finally` all call `then`, which uses the other promise.
    super(() => {});
    this.#promise = promise;
    this.#start = start;
  }

  /**
   * @template [A=T]
   * @template [B=never]
   * @param {((value: T) => A | PromiseLike<A>) | null} [onFulfilled]
   * @param {((reason: unknown) => B | PromiseLike<B>) | null} [onRejected]
   * @returns {Promise<A | B>}
   * @override
   */
  // biome-ignore lint/suspicious/noThenProperty: a promise has one
  then(onFulfilled, onRejected) {
    this.#start();
    return this.#promise.then(onFulfilled, onRejected);
  }
}
