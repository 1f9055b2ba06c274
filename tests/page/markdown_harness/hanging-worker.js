/** The worker of the page, but that it never comes to an end with Markdown that says so. */

import { blocksOf } from "../page/markdown-blocks.js";

addEventListener("message", ({ data }) => {
  while (data.open?.kind !== "plain" && data.text.includes("hang"));
  postMessage({ kind: "result", result: blocksOf(data) });
});
postMessage({ kind: "ready" });
