// A long story that may take only so much time.
import { TextGeneration } from "headrace";

export async function tellFor(ms: number): Promise<{ text: string; reason: string | null }> {
  const { stream, result, cancel } = await TextGeneration.generateStream("repeat 20000: x", { maxTokens: 20_000 });
  const timer = setTimeout(() => cancel(), ms);
  let text = "";
  for await (const piece of stream) text += piece;
  clearTimeout(timer);
  return { text, reason: (await result).finishReason };
}
