// WebLLM's own client, from npm, driving a worker kernel through a shim: what it posts goes out on
// stdout, what the worker answers comes in on stdin, one JSON object a line. Runs every scenario
// and reports each as {"scenario", "error"}.
//
//   node client.mjs MODEL_FOLDER OTHER_MODEL_FOLDER EMBEDDING_MODEL_FOLDER

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import * as webllm from "@mlc-ai/web-llm";

const [MODEL, OTHER, ENCODER] = process.argv.slice(2);
const HELLO = [{ role: "user", content: "Hello!" }];
const GREEDY = { temperature: 0, max_tokens: 24, ignore_eos: true };
const DEADLINE_MS = 120_000;

const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const unexpected = []; // what the client could not take
const worker = { onmessage: null, postMessage: (message) => tell({ post: message }) };
createInterface({ input: process.stdin }).on("line", (line) => {
  try {
    worker.onmessage(JSON.parse(line));
  } catch (error) {
    unexpected.push(`${error}: ${line}`);
  }
});

let reports = [];
const engine = new webllm.WebWorkerMLCEngine(worker, {
  initProgressCallback: (report) => reports.push(report),
  logLevel: "ERROR",
});

const raw = (kind, content = null) =>
  engine.getPromise({ kind, uuid: crypto.randomUUID(), content });
const textOf = async (chunks) => {
  let text = "";
  for await (const chunk of chunks) text += chunk.choices[0]?.delta?.content ?? "";
  return text;
};
const rejects = async (promise, pattern) => {
  const reason = await promise.then(
    () => assert.fail("it was not refused"),
    (reason) => reason,
  );
  assert.match(String(reason), pattern);
};

const scenarios = {
  async "reload reports progress"() {
    reports = [];
    await engine.reload(MODEL);
    const progress = reports.map((r) => r.progress);
    assert.deepEqual(progress, progress.toSorted((a, b) => a - b));
    assert.equal(progress.at(-1), 1);
    for (const report of reports) {
      assert.deepEqual(Object.keys(report).sort(), ["progress", "text", "timeElapsed"]);
    }
  },
  async "chat completion"() {
    const answer = await engine.chat.completions.create({ messages: HELLO, ...GREEDY });
    assert.equal(answer.object, "chat.completion");
    assert.equal(answer.choices[0].message.role, "assistant");
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.equal(answer.usage.completion_tokens, 24);
    for (const name of ["e2e_latency_s", "prefill_tokens_per_s", "decode_tokens_per_s",
      "time_to_first_token_s", "time_per_output_token_s"]) {
      assert.equal(typeof answer.usage.extra[name], "number", name);
    }
    assert.equal(await engine.getMessage(), answer.choices[0].message.content);
  },
  async "chat completion, streamed"() {
    const whole = await engine.chat.completions.create({ messages: HELLO, ...GREEDY });
    const stream = await engine.chat.completions.create({
      messages: HELLO, ...GREEDY, stream: true, stream_options: { include_usage: true },
    });
    let text = "", last, reasons = [];
    for await (const chunk of stream) {
      assert.equal(chunk.object, "chat.completion.chunk");
      text += chunk.choices[0]?.delta.content ?? "";
      if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
      last = chunk;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.deepEqual(reasons, ["length"]);
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.completion_tokens, 24);
  },
  async "several choices"() {
    const answer = await engine.chat.completions.create({
      messages: HELLO, n: 2, seed: 1, max_tokens: 4, ignore_eos: true,
    });
    assert.deepEqual(answer.choices.map((c) => c.index), [0, 1]);
  },
  async "text completion, streamed or not"() {
    const request = { prompt: "hello world", ...GREEDY };
    const whole = await engine.completions.create(request);
    assert.equal(whole.object, "text_completion");
    const stream = await engine.completions.create({ ...request, stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0].text;
    assert.equal(text, whole.choices[0].text);
    const told = await engine.completions.create({ ...request, logprobs: true, top_logprobs: 2 });
    assert.equal(told.choices[0].logprobs.content.length, 24);
    assert.equal(told.choices[0].logprobs.content[0].top_logprobs.length, 2);
  },
  async "embeddings of a model without them are refused"() {
    await rejects(engine.embeddings.create({ input: "hello" }), /no embeddings/);
  },
  async "embeddings of an encoder"() {
    await engine.reload(ENCODER);
    const input = ["rain", "a cold day in the rain", "hello"];
    const made = await engine.embeddings.create({ input });
    assert.equal(made.object, "list");
    assert.equal(made.model, ENCODER);
    assert.deepEqual(made.data.map((d) => [d.object, d.index]), [0, 1, 2].map((i) => ["embedding", i]));
    const vectors = made.data.map((d) => d.embedding);
    for (const vector of vectors) assert.ok(Math.abs(Math.hypot(...vector) - 1) < 1e-4);
    // One by one, in another order: each text has its own vector, at its own place.
    let tokens = 0;
    for (const i of [2, 0, 1]) {
      const one = await engine.embeddings.create({ input: input[i], encoding_format: "float" });
      assert.deepEqual(one.data.map((d) => d.embedding), [vectors[i]]);
      assert.ok(one.usage.prompt_tokens > 2, "the text, and what the tokenizer puts around it");
      tokens += one.usage.prompt_tokens;
    }
    assert.deepEqual({ ...made.usage, extra: null },
      { prompt_tokens: tokens, total_tokens: tokens, extra: null });
    const ids = await engine.embeddings.create({ input: [[5, 6, 7], [8, 9]] });
    assert.deepEqual([ids.data.length, ids.usage.prompt_tokens], [2, 5]);
    await rejects(engine.embeddings.create({ input: [] }), /input = \[\]: /);
    await rejects(engine.embeddings.create({ input: ["fine", ""] }), /input\[1\] = ''/);
    await rejects(engine.chat.completions.create({ messages: HELLO }), /for embeddings/);
  },
  async "a model for text beside one for embeddings"() {
    await engine.reload([MODEL, ENCODER]);
    const request = { input: "hello world", model: ENCODER };
    const [answer, made] = await Promise.all([
      engine.chat.completions.create({ messages: HELLO, ...GREEDY, model: MODEL }),
      engine.embeddings.create(request),
    ]);
    assert.equal(answer.usage.completion_tokens, 24);
    const again = await engine.embeddings.create(request);
    assert.deepEqual(again.data, made.data);
    await engine.reload(MODEL, { model_task: "embedding" }); // a model for text can embed, too
    const decoded = await engine.embeddings.create({ input: "hello world" });
    assert.notEqual(decoded.data[0].embedding.length, made.data[0].embedding.length);
    await engine.reload(MODEL);
  },
  async "interrupt ends a stream"() {
    const stream = await engine.chat.completions.create({
      messages: HELLO, ...GREEDY, max_tokens: 4000, stream: true,
    });
    let reason, chunks = 0;
    for await (const chunk of stream) {
      if (++chunks === 3) engine.interruptGenerate();
      reason = chunk.choices[0].finish_reason ?? reason;
    }
    assert.equal(reason, "abort");
    const answer = await engine.chat.completions.create({ messages: HELLO, ...GREEDY });
    assert.equal(answer.choices[0].finish_reason, "length");
  },
  async "an early break frees the model"() {
    for (let i = 0; i < 3; i++) {
      const stream = await engine.chat.completions.create({
        messages: HELLO, ...GREEDY, max_tokens: 4000, stream: true,
      });
      for await (const _ of stream) break;
    }
    const unread = await engine.chat.completions.create({
      messages: HELLO, ...GREEDY, max_tokens: 4000, stream: true,
    });
    await unread.return();
    await engine.chat.completions.create({ messages: HELLO, ...GREEDY });
  },
  async "two streams at once"() {
    const request = { messages: HELLO, ...GREEDY, stream: true };
    const streams = await Promise.all([1, 2].map(() => engine.chat.completions.create(request)));
    const order = [];
    const read = async (stream, name) => {
      let text = "";
      for await (const chunk of stream) {
        order.push(name);
        text += chunk.choices[0].delta.content ?? "";
      }
      return text;
    };
    const [a, b] = await Promise.all([read(streams[0], "a"), read(streams[1], "b")]);
    assert.equal(a, b);
    assert.notDeepEqual(order, order.toSorted());
  },
  async "reset and statistics"() {
    assert.match(await engine.runtimeStatsText(), /prefill: [\d.]+ tokens\/sec, decoding: /);
    await engine.resetChat(true);
    assert.equal(await engine.getMessage(), "");
    assert.doesNotMatch(await engine.runtimeStatsText(), /decoding: 0\.0/);
    await engine.resetChat();
    assert.match(await engine.runtimeStatsText(), /decoding: 0\.0/);
  },
  async "forward tokens and sample"() {
    await engine.resetChat();
    const first = await engine.forwardTokensAndSample([40, 41, 42], true);
    assert.ok(Number.isInteger(first));
    const second = await engine.forwardTokensAndSample([first], false);
    assert.ok(Number.isInteger(second));
    await engine.resetChat();
    await rejects(engine.forwardTokensAndSample([1e9], true), /outside the vocabulary/);
  },
  async "device queries"() {
    assert.equal(await engine.getGPUVendor(), "cpu");
    assert.ok((await engine.getMaxStorageBufferBindingSize()) > 0);
  },
  async "resumable sessions"() {
    assert.deepEqual(await engine.listResumableSessions(), []);
    const resumable = { enabled: true, sessionId: "one", storePrompt: true };
    const whole = await engine.chat.completions.create({
      messages: HELLO, temperature: 0, max_tokens: 400, ignore_eos: true,
    });
    const stream = await engine.chat.completions.create({
      messages: HELLO, temperature: 0, max_tokens: 400, ignore_eos: true, stream: true,
      extra_body: { resumable },
    });
    let text = "";
    for await (const chunk of stream) {
      text += chunk.choices[0].delta.content ?? "";
      if (text.length > 10) break;
    }
    const [session] = await engine.listResumableSessions();
    assert.equal(session.sessionId, "one");
    assert.equal(session.resumable, true);
    assert.equal(session.recoveryMode, "token_replay");
    assert.ok(session.emittedTokens > 0 && session.processedSeqLen > session.emittedTokens);
    const read = await engine.resumeChatCompletion("one");
    assert.equal(read.emittedTokens, session.emittedTokens);
    assert.ok(whole.choices[0].message.content.startsWith(read.recoveredText));
    const rest = await textOf(
      await engine.resumeChatCompletion("one", { continueGeneration: true, stream: true }),
    );
    assert.equal(read.recoveredText + rest, whole.choices[0].message.content);
    await engine.deleteResumableSession("one");
    await engine.chat.completions.create({
      messages: HELLO, ...GREEDY, extra_body: { resumable },
    });
    await rejects(engine.resumeChatCompletion("one", { continueGeneration: true }), /complete/);
    await engine.deleteResumableSession("one");
    assert.deepEqual(await engine.listResumableSessions(), []);
  },
  async "errors are readable texts"() {
    const create = (more) => engine.chat.completions.create({ messages: HELLO, ...more });
    await rejects(create({ temperature: 5 }), /temperature = 5/);
    await rejects(create({ max_tokens: -1 }), /max_tokens = -1/);
    await rejects(create({ stream: true, top_p: -1 }), /top_p = -1/);
    await rejects(engine.chat.completions.create({ messages: [] }), /at least one message/);
    await rejects(raw("nonsense"), /unknown message kind/);
    await rejects(raw("completionStreamNextChunk", { streamId: "no" }), /no stream/);
    await rejects(raw("customRequest", { requestName: "no" }), /unknown custom request/);
    await rejects(raw("reload", { modelId: 7 }), /modelId must be/);
    await rejects(raw("chatCompletionNonStreaming", "text"), /content must be an object/);
    await rejects(engine.resumeChatCompletion("no"), /no such session/);
  },
  async "log level and app config have no answer"() {
    engine.setLogLevel("DEBUG");
    engine.setLogLevel("ERROR");
    engine.setAppConfig({ model_list: [{ model: OTHER, model_id: "by name", model_lib: "x" }] });
    await engine.reload("by name");
    const answer = await engine.chat.completions.create({ messages: HELLO, ...GREEDY });
    assert.equal(answer.model, "by name");
    await engine.reload(MODEL);
  },
  async "chat options"() {
    await engine.reload(MODEL, { context_window_size: 64 });
    const long = [{ role: "user", content: "hello world ".repeat(40) }];
    await rejects(engine.chat.completions.create({ messages: long }), /context window .* is 64/);
    await rejects(engine.reload(MODEL, { nonsense: 1 }), /chat_opts.nonsense/);
    await engine.reload(MODEL);
  },
  async "two models"() {
    await engine.reload([MODEL, OTHER]);
    const create = (model) =>
      engine.chat.completions.create({ messages: HELLO, ...GREEDY, stream: true, model });
    const [first, second] = await Promise.all([MODEL, OTHER].map(create));
    const [one, two] = await Promise.all([textOf(first), textOf(second)]);
    assert.notEqual(one, two);
    await engine.reload(MODEL);
  },
  async "what another client loaded is replaced"() {
    await new Promise((resolve) => {
      const onmessage = worker.onmessage;
      worker.onmessage = (message) => {
        if (message.kind !== "loadedOther") return onmessage(message);
        worker.onmessage = onmessage;
        resolve();
      };
      tell({ ask: "loadOther" });
    });
    const answer = await engine.chat.completions.create({ messages: HELLO, ...GREEDY });
    assert.equal(answer.model, MODEL);
  },
  async "unload, and load again"() {
    await engine.unload();
    await rejects(engine.chat.completions.create({ messages: HELLO }), /not loaded/i);
    await rejects(engine.reload("/no/such/folder"), /neither a folder nor a \.gguf file here nor a built-in model/);
    await engine.reload(MODEL);
    await engine.chat.completions.create({ messages: HELLO, ...GREEDY });
  },
};

for (const [name, scenario] of Object.entries(scenarios)) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("no answer in time")), DEADLINE_MS);
  });
  const error = await Promise.race([scenario(), late]).then(() => null, (e) => e?.stack ?? `${e}`);
  clearTimeout(timer);
  tell({ scenario: name, error: error ?? (unexpected.length ? unexpected.splice(0).join() : null) });
}
process.exit(0);
