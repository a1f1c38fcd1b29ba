// The `openai` package for Node against `dots serve`. The golden's weights are random: what it says means nothing, but it
// says the same every time.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';

import OpenAI from 'openai';

const { DOTS_TEST_URL: url, DOTS_TEST_KEY: apiKey, DOTS_TEST_MODEL: model } = process.env;
const context = Number(process.env.DOTS_TEST_CONTEXT);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: 'user', content: 'Hello' }];
// Without the golden's special tokens and those that stand for nothing an answer ends by its length alone, and all of its
// tokens show in its text.
const neverEnd = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [500 + i, -100]));

const chat = (settings = {}) =>
  client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0, logit_bias: neverEnd, ...settings });
const complete = (settings = {}) =>
  client.completions.create({ model, prompt: 'Once upon', max_tokens: 8, temperature: 0, logit_bias: neverEnd, ...settings });

async function chunksOf(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

async function refused(errorClass, call) {
  const error = await call().then(
    () => assert.fail('was not refused'),
    (error) => error,
  );
  assert.ok(error instanceof errorClass, `${error}`);
  return error;
}

const tests = {
  async 'a chat is answered'() {
    const answer = await chat();
    assert.match(answer.id, /^chatcmpl-/);
    assert.equal(answer.object, 'chat.completion');
    assert.equal(answer.model, model);
    assert.equal(answer.choices[0].message.role, 'assistant');
    assert.equal(answer.choices[0].finish_reason, 'length');
    assert.equal(answer.usage.completion_tokens, 8);
  },

  async 'a streamed chat says the same'() {
    const whole = await chat();
    const chunks = await chunksOf(chat({ stream: true, stream_options: { include_usage: true } }));
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.deepEqual(last.usage, whole.usage);
    assert.ok(chunks.every((chunk) => chunk.usage === null));
    assert.deepEqual(chunks[0].choices[0].delta, { role: 'assistant', content: '' });
    assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), whole.choices[0].message.content);
    assert.deepEqual(chunks.at(-1).choices[0].delta, {});
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
  },

  async "the client's own stream helper gathers the answer"() {
    const stream = client.chat.completions.stream({ model, messages, max_tokens: 8, temperature: 0, logit_bias: neverEnd });
    const answer = await stream.finalChatCompletion();
    assert.equal(answer.choices[0].message.content, (await chat()).choices[0].message.content);
  },

  async 'several choices of a stream keep apart'() {
    const settings = { n: 2, seed: 3, temperature: 1.5, top_p: 1 };
    const whole = await chat(settings);
    const texts = ['', ''];
    for (const { choices } of await chunksOf(chat({ ...settings, stream: true }))) {
      texts[choices[0].index] += choices[0].delta.content ?? '';
    }
    assert.deepEqual(
      texts,
      whole.choices.map((choice) => choice.message.content),
    );
    assert.notEqual(texts[0], texts[1]);
  },

  async 'log-probabilities come with bytes'() {
    const answer = await chat({ logprobs: true, top_logprobs: 2 });
    const entries = answer.choices[0].logprobs.content;
    assert.equal(entries.length, 8);
    assert.ok(entries.every((entry) => entry.logprob <= 0 && entry.top_logprobs.length === 2));
    const bytes = Buffer.from(entries.flatMap((entry) => entry.bytes));
    assert.equal(bytes.toString(), answer.choices[0].message.content);
  },

  async 'a stop text is left out'() {
    const whole = (await chat({ max_tokens: 40 })).choices[0].message.content;
    // By characters: half of one is no text.
    const stop = [...whole].slice(6, 8).join('');
    const answer = await chat({ max_tokens: 40, stop: [stop] });
    assert.equal(answer.choices[0].message.content, whole.slice(0, whole.indexOf(stop)));
    assert.equal(answer.choices[0].finish_reason, 'stop');
  },

  async 'texts, ids and batches are completed'() {
    const text = await complete();
    assert.equal(text.object, 'text_completion');
    const one = await complete({ prompt: [10, 20, 30] });
    const batch = await complete({ prompt: [[10, 20, 30], [40]] });
    assert.deepEqual(
      batch.choices.map((choice) => choice.index),
      [0, 1],
    );
    assert.equal(batch.choices[0].text, one.choices[0].text);
    const chunks = await chunksOf(complete({ stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), text.choices[0].text);
    const logprobs = (await complete({ logprobs: 2 })).choices[0].logprobs;
    assert.equal(logprobs.tokens.length, 8);
  },

  async 'models are listed and looked up'() {
    const list = await client.models.list();
    assert.deepEqual(
      list.data.map((entry) => entry.id),
      [model],
    );
    assert.equal((await client.models.retrieve(model)).object, 'model');
  },

  async 'errors are of their classes'() {
    const missing = await refused(OpenAI.NotFoundError, () => chat({ model: 'gpt-4' }));
    assert.deepEqual([missing.status, missing.code, missing.param], [404, 'model_not_found', 'model']);
    await refused(OpenAI.NotFoundError, () => client.models.retrieve('gpt-4'));
    const hot = await refused(OpenAI.BadRequestError, () => chat({ temperature: 9 }));
    assert.deepEqual([hot.type, hot.param], ['invalid_request_error', 'temperature']);
    await refused(OpenAI.BadRequestError, () => chat({ messages: [] }));
    // NaN and infinity are `null` in JSON, which is the same as leaving the field out.
    await chat({ temperature: NaN });
    const long = await refused(OpenAI.BadRequestError, () => chat({ max_tokens: context }));
    assert.equal(long.code, 'context_length_exceeded');
    assert.ok(long.message.includes(`${context}`));
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'wrong', maxRetries: 0 });
    const unknown = await refused(OpenAI.AuthenticationError, () => stranger.models.list());
    assert.equal(unknown.code, 'invalid_api_key');
  },

  async 'an aborted stream stops its generation'() {
    const stream = await complete({ prompt: Array(256).fill([1, 2, 3]), n: 16, max_tokens: 250, stream: true });
    for await (const _ of stream) break;
    stream.controller.abort();
    const deadline = Date.now() + 10_000;
    for (;;) {
      const { running, waiting } = await (await fetch(`${url}/health`)).json();
      if (running + waiting === 0) break;
      assert.ok(Date.now() < deadline, `${running} run, ${waiting} wait`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  },
};

const cases = {};
let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    cases[name] = true;
  } catch (error) {
    failed += 1;
    cases[name] = false;
    console.error(`openai for Node: ${name}: failed`, error);
  }
}
if (process.env.DOTS_TEST_RESULTS) {
  const { version } = JSON.parse(readFileSync(new URL('node_modules/openai/package.json', import.meta.url)));
  writeFileSync(`${process.env.DOTS_TEST_RESULTS}/openai for Node.json`, JSON.stringify({ client: 'openai for Node', version, cases }));
}
console.log(`openai for Node: ${Object.keys(tests).length - failed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
