// A hook of one's own, and the one that the package has, in the same component.
import type { LLMGenerationOptions, LLMGenerationResult } from "headrace";
import { TextGeneration } from "headrace";
import { useStreamingGenerate } from "headrace/react";
import { useCallback, useRef, useState } from "react";

function useOwn() {
  const [text, setText] = useState("");
  const [isStreaming, setIsStreaming] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  const [metrics, setMetrics] = useState<LLMGenerationResult | null>(null);
  const stop = useRef<(() => void) | null>(null);

  const generate = useCallback(async (prompt: string, options?: LLMGenerationOptions) => {
    setText("");
    setError(null);
    setMetrics(null);
    setIsStreaming(true);
    try {
      const answer = await TextGeneration.generateStream(prompt, options);
      stop.current = answer.cancel;
      let whole = "";
      for await (const piece of answer.stream) {
        whole += piece;
        setText(whole);
      }
      const result = await answer.result;
      setMetrics(result);
      return result;
    } catch (reason) {
      const failure = reason instanceof Error ? reason : new Error("it failed");
      setError(failure);
      throw failure;
    } finally {
      setIsStreaming(false);
      stop.current = null;
    }
  }, []);

  const cancel = useCallback(() => stop.current?.(), []);
  return { text, isStreaming, error, metrics, generate, cancel };
}

export function Streaming({ isOwn }: { isOwn: boolean }) {
  const own = useOwn();
  const ours = useStreamingGenerate();
  const { text, isStreaming, error, metrics, generate, cancel } = isOwn ? own : ours;
  const ask = (prompt: string) => generate(prompt, { maxTokens: 20_000 }).catch(() => null);
  return (
    <div>
      <button type="button" onClick={() => ask("abc")}>
        Short
      </button>
      <button type="button" onClick={() => ask("repeat 20000: x")}>
        Long
      </button>
      <button type="button" onClick={() => ask("x".repeat(40_000))}>
        Wrong
      </button>
      <button type="button" onClick={cancel}>
        Stop
      </button>
      <p>{text}</p>
      <output>{isStreaming ? "streaming" : (error?.name ?? metrics?.finishReason ?? "idle")}</output>
    </div>
  );
}
