/** What the tests of the Markdown view call: views, what they show, and what marked itself makes of a text. */

import { lexer } from "../page/markdown-lexer.js";
import { createMarkdownView } from "../page/markdown.js";

const text = document.getElementById("text");

/** A new view in an empty container; with how often it was rendered and how many nodes were inserted. */
function make(options = {}) {
  const container = text.cloneNode(false);
  document.querySelector(".answer-text").replaceWith(container);
  const counts = { renders: 0, nodes: 0 };
  new MutationObserver((records) => {
    for (const { addedNodes } of records) {
      for (const node of addedNodes) counts.nodes += 1 + (node.querySelectorAll?.("*").length ?? 0);
    }
  }).observe(container, { childList: true, subtree: true });
  const onRender = () => {
    counts.renders += 1;
  };
  const view = createMarkdownView(container, { onRender, ...options });
  return { container, counts, view };
}

const BLOCKS = "p, ul, ol, li, blockquote, pre, table, hr, h1, h2, h3, h4, h5, h6, div, figure";

/** What is seen of a node, without what only holds it. */
function canonical(node) {
  if (node instanceof Text) {
    const { previousElementSibling: before, nextElementSibling: after } = node;
    const isBetween = node.parentElement?.matches("div") || before?.matches(BLOCKS) || after?.matches(BLOCKS);
    return isBetween ? node.data.trim() : node.data;
  }
  const inside = () => [...node.childNodes].map(canonical).join("");
  if (node.matches("figure.code")) return canonical(node.querySelector("pre"));
  if (node.matches("tbody")) return [...node.children].map(canonical).join("");
  if (node.matches("div, .part")) return inside();
  if (node.matches("pre")) {
    const code = node.textContent.replace(/\s/g, (space) => `\\${space.charCodeAt(0)}`);
    return `<pre>${code}|${node.firstChild.className}</pre>`;
  }
  const isHolder = node.matches("ul, ol, table, thead, tr, blockquote");
  if (node.matches("tr") && !node.querySelector("th")) {
    while (node.lastElementChild?.previousElementSibling && node.lastElementChild.textContent === "") {
      node.lastElementChild.remove();
    }
  }
  // Each link has these two.
  const ours = ["rel", "target"];
  const attributes = [...node.attributes].filter(({ name }) => !ours.includes(name)).map(({ name, value }) => ` ${name}=${JSON.stringify(value)}`).sort();
  const content = isHolder ? [...node.children].map(canonical).join("") : inside();
  return `<${node.localName}${attributes.join("")}>${content.trim().replace(/\s+/g, " ")}</${node.localName}>`;
}

/** All that a container shows. */
function shown(container) {
  return canonical(container.cloneNode(true)).replace(/\s*\n\s*/g, "\n").trim();
}

/** What marked makes of a whole text, and the browser's own sanitiser of that: nothing of ours. */
async function reference(source) {
  const { marked } = await import("../vendor/marked.js");
  const holder = document.createElement("div");
  const attributes = ["align", "class", "href", "start", "title"];
  holder.setHTML(marked.parse(source, { async: false }), { sanitizer: new Sanitizer({ attributes }) });
  // A link that leads nowhere else is text.
  for (const link of holder.querySelectorAll("a")) {
    if (!/^(https?|mailto):/i.test(link.getAttribute("href"))) link.replaceWith(...link.childNodes);
  }
  holder.normalize();
  // marked ends the last line of code, too.
  for (const code of holder.querySelectorAll("pre > code")) code.textContent = code.textContent.replace(/\n$/, "");
  return shown(holder);
}

/** What a view shows that was given these texts one after the other, the last one as the final one. */
async function given(texts, options) {
  const { container, view, counts } = make(options);
  for (const [index, source] of texts.entries()) {
    view.update(source, index === texts.length - 1);
    await view.flush();
  }
  return { shown: shown(container), text: container.textContent, container, work: view.work, counts };
}

/** Where a view that grows character by character shows something else than marked does of the text so far. */
async function moments(source) {
  const { container, view } = make();
  const different = [];
  for (let length = 1; length <= source.length; length += 1) {
    const text = source.slice(0, length);
    view.update(text, false);
    await view.flush();
    const [got, wanted] = [shown(container), await reference(text)];
    if (got !== wanted) different.push({ text, got, wanted });
  }
  return different;
}

/** Where a view that was given a text in two pieces shows something else than marked does of the whole. */
async function cuts(source) {
  const wanted = await reference(source);
  const lengths = [...source].map((_, index) => index);
  const got = await Promise.all(lengths.map((length) => given([source.slice(0, length), source])));
  return lengths.flatMap((length) => {
    const { shown } = got[length];
    return shown === wanted ? [] : [{ text: source.slice(0, length), got: shown, wanted }];
  });
}

/** The most that one update of a text costs which grows in steps: characters lexed and made safe, and nodes put in. */
async function costs(source, step) {
  const { view, counts } = make();
  const most = { lexed: 0, sanitised: 0, nodes: 0 };
  let before = { lexed: 0, sanitised: 0, nodes: 0 };
  for (let length = step; length <= source.length; length += step) {
    view.update(source.slice(0, length), false);
    await view.flush();
    const now = { ...view.work, nodes: counts.nodes };
    for (const name of Object.keys(most)) most[name] = Math.max(most[name], now[name] - before[name]);
    before = now;
  }
  return most;
}

Object.assign(window, { costs, cuts, given, lexer, make, moments, reference, shown });
