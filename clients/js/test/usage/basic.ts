// A story that grows in an element, and how fast it came.
import { TextGeneration } from "headrace";

export async function tell(output: HTMLElement): Promise<string> {
  const { stream, result } = await TextGeneration.generateStream("repeat 9: once, ", { maxTokens: 200 });
  let story = "";
  for await (const piece of stream) {
    story += piece;
    output.textContent = story;
  }
  const { tokensPerSecond, tokensUsed, latencyMs, timeToFirstTokenMs } = await result;
  return `${tokensUsed} tokens, ${tokensPerSecond.toFixed(1)} tok/s, ${latencyMs.toFixed()} ms, ${timeToFirstTokenMs?.toFixed()} ms`;
}
