// openai-node's helpers for answers of a given form, tools and thoughts in chats: parse, stream, runTools.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { LengthFinishReasonError } from 'openai/core/error';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { MODEL, SERVER, collect } from './common.mjs';

const client = new OpenAI({ baseURL: SERVER, apiKey: 'unused', maxRetries: 0 });

const Person = z.object({ name: z.string().max(20), age: z.int().min(0).max(150), mood: z.enum(['happy', 'sad']) });
const City = z.object({ city: z.string().max(20), unit: z.enum(['celsius', 'fahrenheit']) });

const chat = {
  model: MODEL,
  messages: [{ role: 'user', content: 'Bob is 42 years old and happy. Describe him.' }],
  temperature: 0,
  seed: 1, // without one, greedy too may differ where the second request begins with what the first computed
  max_tokens: 200,
};
const asPerson = { ...chat, response_format: zodResponseFormat(Person, 'person') };
const weather = zodFunction({ name: 'get_weather', description: 'Say what the weather is like.', parameters: City });
const named = { type: 'function', function: { name: 'get_weather' } };
const allowed = { type: 'allowed_tools', allowed_tools: { mode: 'required', tools: [named] } };

test('parse', async () => {
  const { choices } = await client.chat.completions.parse(asPerson);
  assert.equal(choices[0].finish_reason, 'stop');
  assert.deepEqual(choices[0].message.parsed, Person.parse(JSON.parse(choices[0].message.content)));
});

test('the object grows in the stream helper', async () => {
  const stream = client.chat.completions.stream(asPerson);
  const grown = [];
  stream.on('content.delta', ({ parsed }) => grown.push(parsed));
  const done = new Promise((resolve) => stream.on('content.done', ({ parsed }) => resolve(parsed)));
  const { parsed } = (await stream.finalChatCompletion()).choices[0].message;
  assert(Person.safeParse(parsed).success);
  assert.deepEqual(await done, parsed);
  assert.deepEqual(grown.at(-1), parsed);
  assert(grown.length > 5);
});

test('several choices fit each for itself', async () => {
  const { choices } = await client.chat.completions
    .stream({ ...asPerson, n: 2, temperature: 1.5 })
    .finalChatCompletion();
  assert.equal(choices.length, 2);
  for (const { message } of choices) assert(Person.safeParse(message.parsed).success);
});

test('what is cut is told from what is complete', async () => {
  const cut = { ...asPerson, max_tokens: 3 };
  await assert.rejects(client.chat.completions.parse(cut), LengthFinishReasonError);
  await assert.rejects(client.chat.completions.stream(cut).finalChatCompletion(), LengthFinishReasonError);
});

for (const [form, tool_choice] of Object.entries({ required: 'required', named, allowed }))
  test(`calls, ${form}`, async () => {
    const settings = { ...chat, tools: [weather], tool_choice, parallel_tool_calls: false };
    const parsed = (await client.chat.completions.parse(settings)).choices[0];
    assert.equal(parsed.finish_reason, 'tool_calls');
    assert.equal(parsed.message.content, null);
    const stream = client.chat.completions.stream(settings);
    let written = '';
    stream.on('tool_calls.function.arguments.delta', (event) => (written += event.arguments_delta));
    const streamed = (await stream.finalChatCompletion()).choices[0];
    assert.equal(streamed.finish_reason, 'tool_calls');
    assert.equal(streamed.message.tool_calls[0].function.arguments, written);
    for (const { message } of [parsed, streamed]) {
      assert.equal(message.tool_calls.length, 1);
      assert.equal(message.tool_calls[0].function.name, 'get_weather');
      assert(City.safeParse(message.tool_calls[0].function.parsed_arguments).success);
    }
    const result = { role: 'tool', tool_call_id: streamed.message.tool_calls[0].id, content: '18 degrees' };
    const messages = [...chat.messages, streamed.message, result];
    const answer = await client.chat.completions.create({ ...chat, messages, tools: [weather], max_tokens: 8 });
    assert(answer.usage.completion_tokens <= 8);
  });

for (const stream of [false, true])
  test(`runTools, ${stream ? '' : 'not '}streamed`, async () => {
    const ran = [];
    const tool = zodFunction({
      name: 'get_weather',
      parameters: City,
      function: (place) => {
        ran.push(place);
        return '18 degrees';
      },
    });
    const settings = { ...chat, tools: [tool], tool_choice: named, stream };
    const runner = client.chat.completions.runTools(settings);
    await runner.done();
    assert(ran.length >= 1);
    assert(City.safeParse(ran[0]).success);
    assert.equal(runner.messages.at(-1).role, 'tool');
    assert.equal(runner.messages.at(-1).content, '18 degrees');
  });

test('thoughts are beside the answer', async () => {
  const tags = ['<think>', '</think>'];
  const settings = { ...chat, regex: '<think>[a-z ]{5,20}</think>Yes\\.', thinking_tags: tags };
  const whole = (await client.chat.completions.create(settings)).choices[0].message;
  assert.equal(whole.content, 'Yes.');
  const chunks = await collect(await client.chat.completions.create({ ...settings, stream: true }));
  const join = (key) => chunks.map((chunk) => chunk.choices[0]?.delta[key] ?? '').join('');
  assert.equal(join('content'), 'Yes.');
  assert.equal(join('reasoning_content'), whole.reasoning_content);
  assert(whole.reasoning_content.length >= 5);
});

test('what cannot be is refused by name', async () => {
  const schema = { type: 'object', properties: { a: { not: {} } } };
  const refused = (settings, param) =>
    assert.rejects(client.chat.completions.create({ ...chat, ...settings }), { status: 400, param });
  await refused(
    { response_format: { type: 'json_schema', json_schema: { name: 'n', schema } } },
    'response_format.json_schema.schema',
  );
  await refused(
    { tools: [{ type: 'function', function: { name: 'f', parameters: schema } }] },
    'tools[0].function.parameters',
  );
  await refused(
    { tools: [weather], tool_choice: { type: 'function', function: { name: 'f' } } },
    'tool_choice.function.name',
  );
});
