// Asks two questions over a text of 7,000 tokens, once with exact attention and once with sampled attention, through the
// OpenAI-compatible server and the official client:
//
//   node packages/server/examples/long-document.mjs                        starts a server of its own
//   node packages/server/examples/long-document.mjs http://127.0.0.1:8080  asks one that runs
import { readFile } from 'node:fs/promises';
import OpenAI from 'openai';

const book = await readFile(new URL('../../../benchmarks/texts/esther.txt', import.meta.url), 'utf8');
const questions = [
  'What is the password of the royal library?', // one line in the middle of the text says it
  'Who was Haman, and what did he want?', // a longer answer, whose decode speed means more than its words: the model is tiny
];

const server = process.argv[2] === undefined ? await startServer() : undefined;
try {
  await ask(server?.url ?? process.argv[2]);
} finally {
  await server?.close();
}

async function ask(url) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.MAGICPIG_API_KEY ?? 'none' });
  const [model] = (await client.models.list()).data;
  for (const question of questions) {
    console.log(`\n${question}`);
    for (const policy of ['dense', 'magicpig']) {
      const { choices, usage, magicpig } = await client.chat.completions.create({
        model: model.id,
        messages: [{ role: 'user', content: `${book}\n\n${question}` }],
        max_tokens: 100,
        temperature: 0,
        magicpig: { policy },
      });
      console.log(`\n  ${policy}: ${choices[0].message.content.replaceAll('\n', '\n  ')}`);
      console.log(
        `  [${usage.prompt_tokens} tokens of context; ${(100 * magicpig.keysReadShare).toFixed(1)}% of the keys read; ` +
          `prefill ${magicpig.prefillTokensPerSecond.toFixed(0)} tokens/s, decode ${magicpig.decodeTokensPerSecond.toFixed(1)} tokens/s]`,
      );
    }
  }
}

/** A server in this process, on a free port. */
async function startServer() {
  const { loadLlama } = await import('@magicpig/model-llama');
  const { createServer } = await import('@magicpig/server');
  console.log('Loading SmolLM2-135M-Instruct ...');
  const model = await loadLlama('smollm2');
  const server = createServer({ model });
  const url = await server.listen({ host: '127.0.0.1', port: 0 });
  return {
    url,
    async close() {
      await server.close();
      await model.close();
    },
  };
}
