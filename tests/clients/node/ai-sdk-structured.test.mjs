// The Vercel AI SDK's objects, tools and reasoning: Output.object, generateObject, streamObject, steps, parts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import {
  NoObjectGeneratedError,
  Output,
  generateObject,
  generateText,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from 'ai';
import { z } from 'zod';
import { MODEL, SERVER, collect } from './common.mjs';

const options = { name: 'headrace', baseURL: SERVER, apiKey: 'unused', includeUsage: true };
const server = createOpenAICompatible({ ...options, supportsStructuredOutputs: true });

const schema = z.object({ name: z.string().max(20), age: z.int().min(0).max(150), mood: z.enum(['happy', 'sad']) });
const settings = {
  model: server(MODEL),
  prompt: 'Bob is 42 years old and happy. Describe him.',
  temperature: 0,
  maxOutputTokens: 200,
  maxRetries: 0,
};
const isPerson = (value) => schema.safeParse(value).success;

test('Output.object', async () => {
  const { output, finishReason } = await generateText({ ...settings, output: Output.object({ schema }) });
  assert(isPerson(output));
  assert.equal(finishReason, 'stop');
  const result = streamText({ ...settings, output: Output.object({ schema }) });
  const grown = await collect(result.partialOutputStream);
  assert.deepEqual(grown.at(-1), await result.output);
  assert(isPerson(grown.at(-1)));
  assert(grown.length > 3);
});

test('generateObject and streamObject', async () => {
  assert(isPerson((await generateObject({ ...settings, schema })).object));
  const result = streamObject({ ...settings, schema });
  const grown = await collect(result.partialObjectStream);
  assert.deepEqual(grown.at(-1), await result.object);
  assert(isPerson(grown.at(-1)));
});

test('the elements of a list', async () => {
  const result = streamObject({ ...settings, schema, output: 'array' });
  for await (const element of result.elementStream) {
    assert(isPerson(element));
    break;
  }
});

test('what is cut is no object', async () => {
  const cut = generateObject({ ...settings, schema, maxOutputTokens: 3 });
  await assert.rejects(cut, (error) => NoObjectGeneratedError.isInstance(error) && error.finishReason === 'length');
});

const sum = z.object({ a: z.int().min(0).max(9), b: z.int().min(0).max(9) });

/** Settings of two steps, a call and an answer, and the arguments that the tool was given. */
function steps() {
  const ran = [];
  const add = tool({
    description: 'Add two digits.',
    inputSchema: sum,
    execute: ({ a, b }) => {
      ran.push({ a, b });
      return { sum: a + b };
    },
  });
  const changes = {
    tools: { add },
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? 'none' : { type: 'tool', toolName: 'add' } }),
  };
  return { ran, changes };
}

test('tools: generateText in several steps', async () => {
  const { ran, changes } = steps();
  const result = await generateText({ ...settings, ...changes, prompt: 'What is 2 plus 3?' });
  assert.equal(ran.length, 1);
  assert(sum.safeParse(ran[0]).success);
  assert.deepEqual(
    result.steps.map((step) => step.finishReason === 'tool-calls'),
    [true, false],
  );
  assert.deepEqual(result.steps[0].toolResults[0].output, { sum: ran[0].a + ran[0].b });
  assert(result.text.length > 0);
});

test('tools: streamText in several steps', async () => {
  const { ran, changes } = steps();
  const result = streamText({ ...settings, ...changes, prompt: 'What is 2 plus 3?' });
  const parts = await collect(result.fullStream);
  const types = new Set(parts.map((part) => part.type));
  for (const type of [
    'tool-input-start',
    'tool-input-delta',
    'tool-input-end',
    'tool-call',
    'tool-result',
    'text-delta',
  ])
    assert(types.has(type), type);
  const call = parts.find((part) => part.type === 'tool-call');
  assert.deepEqual(call.input, ran[0]);
  const written = parts.filter((part) => part.type === 'tool-input-delta' && part.id === call.toolCallId);
  assert(written.length > 1);
  assert.deepEqual(JSON.parse(written.map((part) => part.delta).join('')), call.input);
  assert.equal(ran.length, 1);
  assert.equal((await result.steps).length, 2);
  assert.equal((await result.steps)[0].finishReason, 'tool-calls');
});

test('tools: one has to be called, and none is run here', async () => {
  const tools = { add: tool({ inputSchema: sum }), subtract: tool({ inputSchema: sum }) };
  const { toolCalls } = await generateText({ ...settings, tools, toolChoice: 'required' });
  assert(toolCalls.length >= 1);
  for (const { toolName, input } of toolCalls) {
    assert(toolName in tools);
    assert(sum.safeParse(input).success);
  }
});

test('reasoning', async () => {
  const tags = ['<think>', '</think>'];
  const thought = { regex: '<think>[a-z ]{5,20}</think>Yes\\.', thinking_tags: tags };
  const thinking = { ...settings, providerOptions: { headrace: thought } };
  const { reasoningText, text, usage, response } = await generateText(thinking);
  assert.equal(text, 'Yes.');
  assert.match(reasoningText, /^[a-z ]{5,20}$/);
  assert(usage.outputTokenDetails.reasoningTokens > 0);
  const parts = await collect(streamText(thinking).fullStream);
  const join = (type) =>
    parts
      .filter((part) => part.type === type)
      .map((part) => part.text)
      .join('');
  assert.match(join('reasoning-delta'), /^[a-z ]{5,20}$/); // not the same text: where two tokens tie, either may come
  assert.equal(join('text-delta'), 'Yes.');
  const order = parts.map((part) => part.type);
  assert(order.indexOf('reasoning-end') < order.indexOf('text-start'));
  // It goes back with the history.
  const { prompt, ...others } = settings;
  const messages = [{ role: 'user', content: prompt }, ...response.messages, { role: 'user', content: 'Really?' }];
  const again = await generateText({ ...others, messages, providerOptions: { headrace: { regex: 'No' } } });
  assert.equal(again.text, 'No');
});
