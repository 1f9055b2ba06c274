/** Promises that are settled from elsewhere, given up with a signal, or set going when they are first awaited. */

/**
 * @template T
 * @typedef {{ promise: Promise<T>, resolve: (value: T) => void, reject: (reason: unknown) => void }} Resolvers
 */

/**
 * Makes a promise with the functions that settle it. (`Promise.withResolvers` needs Node 22.)
 *
 * @template T
 * @returns {Resolvers<T>}
 */
export function withResolvers() {
  /** @type {Partial<Resolvers<T>>} */
  const made = {};
  made.promise = new Promise((resolve, reject) => {
    made.resolve = resolve;
    made.reject = reject;
  });
  return /** @type {Resolvers<T>} */ (made);
}

/**
 * Gives what the promise gives, or rejects with the signal's reason as soon as the signal is aborted.
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
 * A promise that calls a function when it is first asked for its value.
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
   * @param {Promise<T>} promise has the value
   * @param {() => unknown} start called before each `then`
   */
  constructor(promise, start) {
    // The promise that this object itself is stays pending: `then`, which `await`, `catch` and `finally` call as well,
    // asks the other promise.
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
