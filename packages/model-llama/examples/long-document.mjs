// Questions about a long text: the document is read once, and each question goes on from its keys, values and hash tables.
// The same question is answered by exact attention and by sampling, with what each of them read.
//
//   node examples/long-document.mjs [model] [text file] [question ...]
import { readFile } from 'node:fs/promises';
import { loadLlama } from '@magicpig/model-llama';

const [source = 'smollm2', file, ...questions] = process.argv.slice(2);
if (file === undefined) {
  console.error('usage: node examples/long-document.mjs <model> <text file> [question ...]');
  process.exit(2);
}
if (questions.length === 0) questions.push('What is this text about?', 'Who is mentioned in it?');

const model = await loadLlama(source);
const document = await fitting(await readFile(file, 'utf8'), model.info.contextTokens - 500);
const policies = { dense: { policy: 'dense' }, magicpig: { policy: 'magicpig' } };
for (const question of questions) {
  console.log(`\n${question}`);
  const messages = [{ role: 'user', content: `${document}\n\nAnswer from the text above. ${question}` }];
  for (const [name, attention] of Object.entries(policies)) {
    let text = '';
    for await (const event of model.generate({ messages }, { attention, maxTokens: 60 })) {
      if (event.type !== 'prefill') text += event.text;
      if (event.type === 'end') report(name, text, event);
    }
  }
}
await model.close();

function report(name, text, { usage, attention, timing }) {
  const percent = (100 * attention.keysReadShare).toFixed(1);
  console.log(`  ${name}: ${text.trim()}`);
  console.log(
    `    ${usage.promptTokens} prompt tokens, ${usage.cachedTokens} of them known, in ${(timing.prefillMs / 1000).toFixed(1)} s; ` +
      `${timing.decodeTokensPerSecond.toFixed(0)} tokens/s, ${percent}% of the keys read`,
  );
}

/** As much of a text, from its beginning, as has so many tokens. */
async function fitting(text, tokens) {
  const ids = await model.tokenize(text);
  return ids.length <= tokens ? text : model.detokenize(ids.subarray(0, tokens));
}
