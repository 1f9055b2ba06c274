/** The types of headrace.js for tsc, from the modules that it is made of; wheels leave this file out. */
export * from "../../../clients/js/src/index.js";
