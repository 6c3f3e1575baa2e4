// A conversation on the terminal, one question a line. Each turn goes on from the keys and values of those before it, so
// that only the new question is read; Ctrl-C during an answer ends that answer, an empty line or Ctrl-D the conversation.
//
//   node examples/chat.mjs [model] [format of the weights]
import { createInterface } from 'node:readline';
import { loadLlama } from '@magicpig/model-llama';

const [source = 'smollm2', weights] = process.argv.slice(2);
const model = await loadLlama(source, {
  weights,
  onProgress: ({ stage, item }) => stage === 'download' && process.stderr.write(`\r${item} ...`),
});
console.log(`${model.info.name}, ${model.info.description}`);

const terminal = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' });
const messages = [];
terminal.prompt();
for await (const line of terminal) {
  if (line.trim() === '') break;
  messages.push({ role: 'user', content: line });
  messages.push({ role: 'assistant', content: await answer() });
  terminal.prompt();
}
terminal.close();
await model.close();

async function answer() {
  const stop = new AbortController();
  const onInterrupt = () => stop.abort();
  terminal.once('SIGINT', onInterrupt);
  let text = '';
  try {
    for await (const event of model.generate({ messages }, { maxTokens: 200, signal: stop.signal })) {
      if (event.type === 'prefill') continue;
      process.stdout.write(event.text);
      text += event.text;
      if (event.type === 'end') {
        const { promptTokens, cachedTokens, completionTokens } = event.usage;
        console.log(`\n[${promptTokens} tokens read, ${cachedTokens} of them known; ${completionTokens} written]`);
      }
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    console.log(' [stopped]');
  } finally {
    terminal.off('SIGINT', onInterrupt);
  }
  return text;
}
