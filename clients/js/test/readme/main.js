// Runs the README's examples one after another, each a module in this folder; those with a component render it.
import { readdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { document } from "../dom.js";
// React looks for a document when it is loaded, so it comes after that.

import { TextGeneration } from "headrace";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

document.body.append(Object.assign(document.createElement("p"), { id: "output" }));
TextGeneration.configure({ baseUrl: process.env.REAL_URL ?? null });

const folder = new URL("./", import.meta.url);
const files = (await readdir(folder)).filter((file) => file.startsWith("example")).sort();
for (const file of files) {
  const components = await import(new URL(file, folder).href);
  for (const component of Object.values(components)) await render(component);
  console.log("---");
}
console.log(`The page says: ${document.getElementById("output")?.textContent}`);
process.exit(); // the document would keep it alive

/** Press a component's button, and wait for the metrics. @param {import("react").FunctionComponent} component */
async function render(component) {
  const container = document.body.appendChild(document.createElement("div"));
  const root = createRoot(container);
  root.render(createElement(component));
  (await appeared(container, "button")).click();
  console.log((await appeared(container, "small")).textContent);
  root.unmount();
}

/** @param {HTMLElement} container @param {string} selector @returns {Promise<HTMLElement>} */
async function appeared(container, selector) {
  for (;;) {
    /** @type {HTMLElement | null} */
    const element = container.querySelector(selector);
    if (element !== null) return element;
    await sleep(5);
  }
}
