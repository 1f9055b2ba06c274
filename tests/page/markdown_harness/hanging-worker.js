/** The worker of the page, but that it never comes to an end with Markdown that says so. */

import { blocksOf } from "../page/markdown-blocks.js";

addEventListener("message", ({ data }) => {
  // What goes on as plain text is not lexed.
  const paragraphs = data.text.split("\n\n").slice(data.open?.kind === "plain" ? 1 : 0);
  while (paragraphs.some((text) => text.includes("hang")));
  postMessage({ kind: "result", result: blocksOf(data) });
});
postMessage({ kind: "ready" });
