// openai-node: chat, completions, responses; create, streams, stream helpers, abort, errors.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { MODEL, NARROW, SERVER, collect, endOf } from './common.mjs';

const client = new OpenAI({ baseURL: SERVER, apiKey: 'unused', maxRetries: 0 });
const narrow = new OpenAI({ baseURL: NARROW, apiKey: 'secret', maxRetries: 0 });

const messages = [{ role: 'user', content: 'Write a short story about a lighthouse.' }];
const chat = { model: MODEL, messages, temperature: 0.01, seed: 1, max_tokens: 24 };
const endless = { ...chat, max_tokens: 1900, ignore_eos: true };
const completion = { model: MODEL, prompt: 'The sea is deep and', temperature: 0.01, seed: 1, max_tokens: 12 };
const response = {
  model: MODEL,
  input: 'Name the capital of France.',
  temperature: 0.01,
  seed: 1,
  max_output_tokens: 200,
};

const say = async (settings = {}) =>
  (await client.chat.completions.create({ ...chat, ...settings })).choices[0].message.content;

test('chat: create', async () => {
  const {
    data,
    response: raw,
    request_id,
  } = await client.chat.completions.create(chat, { headers: { 'X-Request-Id': 'node-1' } }).withResponse();
  assert.equal(raw.headers.get('x-request-id'), 'node-1');
  assert.equal(request_id, 'node-1');
  assert.match(data.id, /^chatcmpl-/);
  const [choice] = data.choices;
  assert.equal(choice.finish_reason, 'length');
  assert.equal(choice.message.role, 'assistant');
  assert.equal(choice.message.refusal, null);
  assert.equal(choice.logprobs, null);
  assert(choice.message.content.length > 0);
  assert.equal(data.usage.completion_tokens, 24);
});

test('chat: stream', async () => {
  const stream = await client.chat.completions.create({
    ...chat,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = await collect(stream);
  assert.equal(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created}`)).size, 1);
  assert.deepEqual(chunks[0].choices[0].delta, { role: 'assistant', content: '' });
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 24);
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), await say());
});

test('chat: stream helper', async () => {
  const stream = client.chat.completions.stream({ ...chat, logprobs: true });
  let text = '';
  stream.on('content', (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(text, await say());
  assert.equal(final.choices[0].message.content, text);
  assert.equal(final.choices[0].finish_reason, 'length');
  assert.equal(final.choices[0].logprobs.content.map((entry) => entry.token).join(''), text);
});

test('chat: several choices', async () => {
  const settings = { ...chat, n: 3, temperature: 1.2 };
  for (const data of [
    await client.chat.completions.create(settings),
    await client.chat.completions.stream(settings).finalChatCompletion(),
  ]) {
    assert.deepEqual(
      data.choices.map((choice) => choice.index),
      [0, 1, 2],
    );
    assert(data.choices.every((choice) => choice.message.content && choice.finish_reason));
  }
});

test('chat: a stop sequence', async () => {
  const text = await say();
  const word = text.split(/\s+/)[7];
  const final = await client.chat.completions.stream({ ...chat, stop: [word] }).finalChatCompletion();
  assert.equal(final.choices[0].message.content, text.slice(0, text.indexOf(word)));
  assert.equal(final.choices[0].finish_reason, 'stop');
});

test('chat: a seed repeats', async () => {
  const [one, same, other] = [
    await say({ temperature: 1, seed: 7 }),
    await say({ temperature: 1, seed: 7 }),
    await say({ temperature: 1, seed: 8 }),
  ];
  assert.equal(one, same);
  assert.notEqual(one, other);
});

test('chat: abort by a signal', async () => {
  const controller = new AbortController();
  const options = { signal: controller.signal, headers: { 'X-Request-Id': 'node-signal' } };
  const stream = await client.chat.completions.create({ ...endless, stream: true }, options);
  for await (const chunk of stream) if (chunk.choices[0].delta.content) controller.abort();
  assert.equal((await endOf('node-signal')).finish_reason, 'cancelled');
});

test('chat: abort without a stream', async () => {
  const controller = new AbortController();
  const options = { signal: controller.signal, headers: { 'X-Request-Id': 'node-unstreamed' } };
  const pending = client.chat.completions.create(endless, options);
  // Another stream's first token says that the server has read this request too.
  await client.chat.completions.create({ ...chat, max_tokens: 1 });
  controller.abort();
  await assert.rejects(pending, OpenAI.APIUserAbortError);
  assert.equal((await endOf('node-unstreamed')).finish_reason, 'cancelled');
});

test('chat: breaking out of the loop', async () => {
  const stream = await client.chat.completions.create(
    { ...endless, stream: true },
    { headers: { 'X-Request-Id': 'node-break' } },
  );
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  assert.equal((await endOf('node-break')).finish_reason, 'cancelled');
});

test('chat: abort of the helper', async () => {
  const stream = client.chat.completions.stream(endless, { headers: { 'X-Request-Id': 'node-helper' } });
  stream.once('content', () => stream.abort());
  await assert.rejects(stream.done(), OpenAI.APIUserAbortError);
  assert.equal((await endOf('node-helper')).finish_reason, 'cancelled');
});

test('completions: create and stream', async () => {
  const data = await client.completions.create(completion);
  assert.match(data.id, /^cmpl-/);
  assert.equal(data.choices[0].finish_reason, 'length');
  const chunks = await collect(await client.completions.create({ ...completion, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), data.choices[0].text);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
});

test('responses: create', async () => {
  const data = await client.responses.create(response);
  assert.equal(data.status, 'completed');
  assert.match(data.output_text, /Paris/);
  assert(data.usage.output_tokens > 0);
});

test('responses: stream', async () => {
  const events = await collect(await client.responses.create({ ...response, stream: true }));
  assert.deepEqual(
    events.map((event) => event.sequence_number),
    events.map((_, index) => index),
  );
  assert.equal(events[0].type, 'response.created');
  assert.equal(events.at(-1).type, 'response.completed');
  const text = events
    .filter((event) => event.type === 'response.output_text.delta')
    .map((event) => event.delta)
    .join('');
  assert.equal(events.at(-1).response.output[0].content[0].text, text);
});

test('responses: stream helper', async () => {
  const stream = client.responses.stream(response);
  let text = '';
  stream.on('response.output_text.delta', (event) => {
    text += event.delta;
    assert.equal(event.snapshot, text);
  });
  const final = await stream.finalResponse();
  assert.equal(final.status, 'completed');
  assert.equal(final.output_text, text);
  const cut = await client.responses.stream({ ...response, max_output_tokens: 16, ignore_eos: true }).finalResponse();
  assert.equal(cut.status, 'incomplete');
  assert.deepEqual(cut.incomplete_details, { reason: 'max_output_tokens' });
});

test('responses: the helper puts a thought together', async () => {
  const thinking = { thinking_tags: ['<think>', '</think>'], regex: '<think>[a-z ]{5,9}</think>Yes[.]' };
  const stream = client.responses.stream({ ...response, ...thinking });
  let thought = '';
  stream.on('response.reasoning_text.delta', (event) => (thought += event.delta));
  const { output, output_text, usage } = await stream.finalResponse();
  assert.deepEqual(
    output.map((item) => item.type),
    ['reasoning', 'message'],
  );
  assert.deepEqual(output[0].content, [{ type: 'reasoning_text', text: thought }]);
  assert.equal(output_text, 'Yes.');
  assert(usage.output_tokens_details.reasoning_tokens > 0);
});

test('responses: the helper puts a call together', async () => {
  const digit = { type: 'integer', minimum: 0, maximum: 9 };
  const parameters = {
    type: 'object',
    properties: { a: digit },
    required: ['a'],
    additionalProperties: false,
  };
  const tools = [{ type: 'function', name: 'count', parameters, strict: true }];
  const called = { ...response, tools, tool_choice: 'required', parallel_tool_calls: false };
  const stream = client.responses.stream(called);
  let snapshot = '';
  stream.on('response.function_call_arguments.delta', (event) => ({ snapshot } = event));
  const { output, status } = await stream.finalResponse();
  assert.equal(status, 'completed');
  assert.equal(output.length, 1);
  assert.equal(output[0].name, 'count');
  assert.equal(output[0].arguments, snapshot);
  assert(JSON.parse(snapshot).a >= 0);
  const input = [...output, { type: 'function_call_output', call_id: output[0].call_id, output: '5' }];
  assert.equal((await client.responses.create({ ...response, input })).status, 'completed');
});

test('responses: abort of the helper', async () => {
  const settings = { ...response, max_output_tokens: 1900, ignore_eos: true };
  const stream = client.responses.stream(settings, { headers: { 'X-Request-Id': 'node-response' } });
  stream.once('response.output_text.delta', () => stream.abort());
  await assert.rejects(stream.done(), OpenAI.APIUserAbortError);
  assert.equal((await endOf('node-response')).finish_reason, 'cancelled');
});

test('models', async () => {
  const models = await collect(client.models.list());
  assert.deepEqual(
    models.map((model) => model.id),
    [MODEL],
  );
  assert.deepEqual(await client.models.retrieve(MODEL), models[0]);
});

test('errors before the first byte', async () => {
  const refused = (settings) => client.chat.completions.create({ ...chat, ...settings });
  await assert.rejects(refused({ temperature: -1 }), (error) => {
    assert(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, 'temperature');
    assert.equal(error.type, 'invalid_request_error');
    assert(error.requestID);
    return true;
  });
  await assert.rejects(refused({ no_such_thing: 1 }), { status: 400, param: 'no_such_thing' });
  await assert.rejects(refused({ tools: [{ type: 'web_search' }] }), {
    status: 400,
    param: 'tools[0].type',
  });
  await assert.rejects(refused({ messages: [{ role: 'user', content: 'word '.repeat(3000) }] }), {
    status: 400,
    code: 'context_length_exceeded',
  });
  await assert.rejects(
    refused({ model: 'gpt-9' }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found',
  );
  await assert.rejects(client.models.retrieve('gpt/9'), { status: 404 });
  const stranger = new OpenAI({ baseURL: NARROW, apiKey: 'guessed', maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test('errors in mid-stream', async () => {
  const settings = { ...endless, max_tokens: 8000 };
  let text = '';
  const read = async () => {
    for await (const chunk of await narrow.chat.completions.create({ ...settings, stream: true }))
      text += chunk.choices[0].delta.content ?? '';
  };
  const isTimeout = (error) => {
    assert(error instanceof OpenAI.APIError);
    assert.equal(error.status, undefined);
    assert.equal(error.code, 'timeout');
    assert.match(error.message, /timeout_ms/);
    return true;
  };
  await assert.rejects(read(), isTimeout);
  assert(text.length > 0);
  await assert.rejects(narrow.chat.completions.stream(settings).finalChatCompletion(), isTimeout);
  const failed = await narrow.responses
    .stream({ ...response, max_output_tokens: 8000, ignore_eos: true })
    .finalResponse();
  assert.equal(failed.status, 'failed');
  assert.match(failed.error.message, /timeout_ms/);
});
