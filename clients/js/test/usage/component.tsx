// A button that starts an answer, the answer, and its metrics.
import { TextGeneration } from "headrace";
import { useCallback, useState } from "react";

export function Answer({ prompt }: { prompt: string }) {
  const [answer, setAnswer] = useState("");
  const [isBusy, setBusy] = useState(false);
  const [summary, setSummary] = useState("");

  const ask = useCallback(async () => {
    setAnswer("");
    setSummary("");
    setBusy(true);
    try {
      const { stream, result } = await TextGeneration.generateStream(prompt, { maxTokens: 300, temperature: 0.7 });
      let whole = "";
      for await (const piece of stream) {
        whole += piece;
        setAnswer(whole);
      }
      const { tokensPerSecond, latencyMs, tokensUsed } = await result;
      setSummary(`${tokensPerSecond.toFixed(1)} tok/s, ${latencyMs} ms, ${tokensUsed} tokens`);
    } catch (error) {
      setAnswer(`Error: ${(error as Error).message}`);
    } finally {
      setBusy(false);
    }
  }, [prompt]);

  return (
    <div>
      <button type="button" onClick={ask} disabled={isBusy}>
        {isBusy ? "Writing" : "Ask"}
      </button>
      <p>{answer}</p>
      {summary !== "" && <small>{summary}</small>}
    </div>
  );
}
