// Every name that the package exports, used as its types allow, and refused where they do not.
import type {
  Configuration,
  FinishReason,
  LLMGenerationOptions,
  LLMGenerationResult,
  LLMStreamingResult,
  Message,
  ModelInfo,
  PromptProgress,
  SseEvent,
  StreamToken,
  Timings,
  TokenKind,
  ToolCall,
  Usage,
} from "headrace";
import {
  AuthenticationError,
  ConnectionLostError,
  createThrottledUpdater,
  GenerationError,
  HeadraceError,
  HttpError,
  InvalidRequestError,
  NotFoundError,
  parsePartialJson,
  QueueFullError,
  SseDecoder,
  StreamTimeoutError,
  TextGeneration,
  TextGenerationClient,
  UnavailableError,
} from "headrace";
import type { StreamingActions, StreamingState } from "headrace/react";
import { useStreamingGenerate } from "headrace/react";

const configuration: Configuration = { baseUrl: "http://127.0.0.1:1", apiKey: null, model: "a" };
const client: TextGenerationClient = new TextGenerationClient(configuration);
client.configure({ baseUrl: new URL("http://127.0.0.1:1"), fetch });

const options: LLMGenerationOptions = {
  maxTokens: 1,
  temperature: 0,
  stopSequences: ["a"],
  thinkingTags: ["<a>", "</a>"],
  signal: new AbortController().signal,
  onProgress: ({ total, cached, processed, timeMs }: PromptProgress) => total + cached + processed + timeMs,
  onConnection: (state: "lost" | "resumed") => state,
};
const messages: readonly Message[] = [{ role: "user", content: "a" }];

// @ts-expect-error: a name that is none
const misspelt: LLMGenerationOptions = { max_tokens: 1 };
// @ts-expect-error: a string is no number
const wrong: LLMGenerationOptions = { topK: "1" };

async function everything(): Promise<LLMGenerationResult> {
  const models: ModelInfo[] = await TextGeneration.models();
  const streaming: LLMStreamingResult = await client.chatStream(messages, options);
  for await (const text of streaming.stream) text.toUpperCase();
  for await (const token of streaming.streamEvents) {
    const { text, kind, index, timestamp, isLast, toolCall, rest }: StreamToken = token;
    const kinds: TokenKind[] = [kind, ...rest.map((part) => part.kind)];
    const lengths: number[] = [text.length, index, timestamp, Number(isLast), toolCall?.arguments.length ?? 0];
    kinds.push(...lengths.map((): TokenKind => "text"));
  }
  for await (const value of streaming.objects) JSON.stringify(value);
  streaming.cancel();
  const ended: boolean = await client.cancelStream(streaming.id);
  const again: LLMStreamingResult = await client.resumeStream(streaming.id, { signal: AbortSignal.timeout(1) });
  const results: LLMGenerationResult[] = [
    await TextGeneration.generate("a", options),
    await TextGeneration.chat("a", { ...options, model: models[0]?.id }),
    await (await TextGeneration.generateStream("a")).result,
    await again.result,
  ];
  const [result] = results;
  if (result === undefined || ended) throw new Error("none");
  const { usage, timings, finishReason, toolCalls, parsed, thinking, timeToFirstTokenMs } = result;
  const details: [Usage, Timings | null, FinishReason | null, ToolCall[], unknown, string | null, number | null] = [
    usage,
    timings,
    finishReason,
    toolCalls,
    parsed,
    thinking,
    timeToFirstTokenMs,
  ];
  return details.length > 0 ? result : Promise.reject(new HeadraceError("none"));
}

function explain(error: unknown): string {
  if (error instanceof QueueFullError || error instanceof UnavailableError) return `again in ${error.retryAfterMs} ms`;
  if (error instanceof InvalidRequestError) return error.param ?? error.message;
  if (error instanceof AuthenticationError || error instanceof NotFoundError) return String(error.status);
  if (error instanceof HttpError) return error.type ?? "?";
  if (error instanceof StreamTimeoutError || error instanceof ConnectionLostError) return error.partial?.text ?? "";
  if (error instanceof GenerationError) return error.code ?? "?";
  return error instanceof HeadraceError ? error.message : "?";
}

const events: SseEvent[] = new SseDecoder().feed(new TextEncoder().encode("data: [1\n\n"));

export const names = {
  createThrottledUpdater,
  everything,
  explanation: explain(new QueueFullError("a", { retryAfterMs: 5 })),
  parsed: events.map(({ data }) => parsePartialJson(data)),
  refused: [misspelt, wrong],
  useStreamingGenerate: useStreamingGenerate satisfies () => StreamingState & StreamingActions,
};
