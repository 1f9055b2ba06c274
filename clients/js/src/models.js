/** The models that a server has, and the one to use where the caller names none. */

import { InvalidRequestError } from "./errors.js";

/** @import { Server } from "./server.js" */
/** @import { ModelInfo } from "./types.js" */

/**
 * @param {Server} server
 * @param {AbortSignal} [signal]
 * @returns {Promise<ModelInfo[]>}
 */
export async function modelsOf(server, signal) {
  const answer = await server.json("GET", "v1/models", { signal });
  /** @type {{ id: string, context_length: number }[]} */
  const models = Array.isArray(answer.data) ? answer.data : [];
  return models.map((model) => ({ id: model.id, contextLength: model.context_length }));
}

/** Asks a server for its only model, and remembers the answer. */
export class OnlyModel {
  /** The model's id, or the request for it that is under way. @type {Promise<string> | null} */
  #id = null;

  /**
   * The id of the server's only model; an error where it has none, or several.
   *
   * @param {Server} server asked only where nothing is remembered
   * @returns {Promise<string>}
   */
  find(server) {
    this.#id ??= modelsOf(server).then(
      (models) => {
        if (models.length === 1 && models[0] !== undefined) return models[0].id;
        this.forget();
        const names = models.map((model) => model.id).join(", ");
        const message = `model is missing, and the server has ${models.length}; allowed: ${names || "none yet"}`;
        throw new InvalidRequestError(message, { code: "missing_model", param: "model" });
      },
      (error) => {
        this.forget();
        throw error;
      },
    );
    return this.#id;
  }

  forget() {
    this.#id = null;
  }
}
