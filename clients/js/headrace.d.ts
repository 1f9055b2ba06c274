/** The types of headrace.js: esbuild keeps no types in the bundle, so they come from the modules that it is made of. */
export * from "./src/index.js";
