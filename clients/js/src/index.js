/** The public names of the package. esbuild bundles headrace.js from this module and its imports. */

export { TextGeneration, TextGenerationClient } from "./client.js";
export {
  AuthenticationError,
  ConnectionLostError,
  GenerationError,
  HeadraceError,
  HttpError,
  InvalidRequestError,
  NotFoundError,
  QueueFullError,
  StreamTimeoutError,
  UnavailableError,
} from "./errors.js";
export { parsePartialJson } from "./partial-json.js";
export { SseDecoder } from "./sse-decoder.js";
export * from "./types.js";
export { createThrottledUpdater } from "./updater.js";
