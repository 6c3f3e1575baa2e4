import type { Tokenizer } from './checkpoint.js';
import { InvalidRequestError } from './errors.js';
import type { Prompt } from './worker-protocol.js';

/**
 * Token ids of a prompt: ids as they are, a text with the special tokens the model begins with, a conversation in the
 * model's chat template.
 *
 * @throws InvalidRequestError for anything else, ChatTemplateError.
 */
export function encodePrompt(tokenizer: Tokenizer, prompt: Prompt): Int32Array {
  if (prompt instanceof Int32Array) return prompt;
  if (typeof prompt === 'string') return tokenizer.encode(prompt, { addSpecial: true });
  if (Array.isArray(prompt?.messages)) {
    if (prompt.messages.length === 0) throw new InvalidRequestError('messages must hold at least one', 'messages');
    return tokenizer.applyChatTemplate(prompt.messages, prompt.tools && { tools: prompt.tools });
  }
  throw new InvalidRequestError('the prompt must be a text, an Int32Array of token ids, or { messages }', 'prompt');
}
