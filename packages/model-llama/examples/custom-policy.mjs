// Decodes with an attention policy of one's own: top-k-policy.mjs, which the model's thread imports.
//
//   node examples/custom-policy.mjs [model] [question]
import { loadLlama } from '@magicpig/model-llama';

const [source = 'smollm2', question = 'Name three colours.'] = process.argv.slice(2);
const model = await loadLlama(source, { policies: { 'top-k': import.meta.resolve('./top-k-policy.mjs') } });
const messages = [
  { role: 'system', content: `You are a painter. ${'Your answers are short and friendly. '.repeat(50)}` },
  { role: 'user', content: question },
];
for (const keys of [16, 256]) {
  const attention = { policy: 'custom', name: 'top-k', options: { keys } };
  for await (const event of model.generate({ messages }, { attention, maxTokens: 40 })) {
    if (event.type === 'token') process.stdout.write(event.text);
    if (event.type === 'end') {
      const { sampledSteps, keysReadShare } = event.attention;
      console.log(
        `${event.text}\n[${keys} keys a head: ${(100 * keysReadShare).toFixed(0)}% read, ${sampledSteps} steps]\n`,
      );
    }
  }
}
await model.close();
