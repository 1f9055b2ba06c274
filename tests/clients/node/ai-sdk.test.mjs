// The Vercel AI SDK with @ai-sdk/openai-compatible: generateText, streamText, abort, errors.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, streamText } from 'ai';
import { MODEL, NARROW, SERVER, collect, endOf } from './common.mjs';

const connect = (baseURL, apiKey) => createOpenAICompatible({ name: 'headrace', baseURL, apiKey, includeUsage: true });
const server = connect(SERVER, 'unused');
const narrow = connect(NARROW, 'secret');

const settings = {
  prompt: 'Write a short story about a lighthouse.',
  temperature: 0.01,
  seed: 1,
  maxOutputTokens: 24,
  maxRetries: 0,
};
const endless = { ...settings, maxOutputTokens: 1900, providerOptions: { headrace: { ignore_eos: true } } };

test('generateText', async () => {
  const { text, finishReason, usage, response, warnings } = await generateText({ ...settings, model: server(MODEL) });
  assert(text.length > 0);
  assert.equal(finishReason, 'length');
  assert.equal(usage.outputTokens, 24);
  assert.equal(usage.totalTokens, usage.inputTokens + 24);
  assert.equal(response.modelId, MODEL);
  assert.match(response.id, /^chatcmpl-/);
  assert.deepEqual(warnings, []);
});

test('streamText', async () => {
  const { text } = await generateText({ ...settings, model: server(MODEL) });
  const result = streamText({ ...settings, model: server(MODEL) });
  assert.equal((await collect(result.textStream)).join(''), text);
  assert.equal(await result.text, text);
  assert.equal(await result.finishReason, 'length');
  assert.equal((await result.usage).outputTokens, 24);
  assert.equal((await result.response).modelId, MODEL);
});

test('fullStream', async () => {
  const parts = await collect(streamText({ ...settings, model: server(MODEL), system: 'Be brief.' }).fullStream);
  const types = parts.map((part) => part.type);
  const deltas = parts.filter((part) => part.type === 'text-delta');
  assert(deltas.length > 1);
  assert.deepEqual(types, [
    'start',
    'start-step',
    'text-start',
    ...deltas.map(() => 'text-delta'),
    'text-end',
    'finish-step',
    'finish',
  ]);
  assert.equal(parts.at(-1).finishReason, 'length');
  assert.equal(parts.at(-1).totalUsage.outputTokens, 24);
});

test('a conversation with a stop sequence', async () => {
  const first = await generateText({ ...settings, model: server(MODEL) });
  const word = first.text.split(/\s+/)[7];
  const stopped = await generateText({ ...settings, model: server(MODEL), stopSequences: [word] });
  assert.equal(stopped.finishReason, 'stop');
  assert.equal(stopped.text, first.text.slice(0, first.text.indexOf(word)));
  const { prompt, ...others } = settings;
  const messages = [
    { role: 'user', content: prompt },
    ...first.response.messages,
    {
      role: 'user',
      content: [
        { type: 'text', text: 'Go' },
        { type: 'text', text: ' on.' },
      ],
    },
  ];
  const second = await generateText({ ...others, model: server(MODEL), messages });
  assert(second.usage.inputTokens > first.usage.inputTokens);
});

test('a completion model', async () => {
  const model = server.completionModel(MODEL);
  const { text, usage } = await generateText({ ...settings, model });
  const result = streamText({ ...settings, model });
  assert.equal(await result.text, text);
  assert.equal((await result.usage).outputTokens, usage.outputTokens);
});

test('abort', async () => {
  const controller = new AbortController();
  const result = streamText({
    ...endless,
    model: server(MODEL),
    abortSignal: controller.signal,
    headers: { 'X-Request-Id': 'ai-sdk-abort' },
    onChunk: ({ chunk }) => chunk.type === 'text-delta' && controller.abort(),
  });
  const parts = await collect(result.fullStream);
  assert.equal(parts.at(-1).type, 'abort');
  assert.equal((await endOf('ai-sdk-abort')).finish_reason, 'cancelled');
});

test('errors before the first byte', async () => {
  const refused = (change) => generateText({ ...settings, model: server(MODEL), ...change });
  await assert.rejects(refused({ temperature: -1 }), (error) => {
    assert(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.equal(error.isRetryable, false);
    assert.equal(error.data.error.param, 'temperature');
    assert.match(error.message, /temperature/);
    return true;
  });
  await assert.rejects(refused({ model: server('gpt-9') }), { statusCode: 404 });
  await assert.rejects(refused({ model: connect(NARROW, 'guessed')(MODEL) }), { statusCode: 401 });
  await assert.rejects(
    refused({ prompt: 'word '.repeat(3000) }),
    (error) => error.data.error.code === 'context_length_exceeded',
  );
});

test('an error in mid-stream', async () => {
  const errors = [];
  const result = streamText({
    ...endless,
    maxOutputTokens: 8000,
    model: narrow(MODEL),
    onError: ({ error }) => errors.push(error),
  });
  const parts = await collect(result.fullStream);
  assert(parts.some((part) => part.type === 'text-delta'));
  assert.equal(errors.length, 1);
  assert.equal(errors[0].code, 'timeout');
  assert.match(errors[0].message, /timeout_ms/);
  assert.equal(parts.at(-1).type, 'finish');
  assert.equal(await result.finishReason, 'error');
});
