// Text that comes faster than a screen can show it.
import { createThrottledUpdater, TextGeneration } from "headrace";

export async function show(output: HTMLElement): Promise<void> {
  const updater = createThrottledUpdater(output);
  const { stream } = await TextGeneration.generateStream("repeat 100: word ", { maxTokens: 2000 });
  for await (const piece of stream) updater.append(piece);
}
