import type { CompletionRequest } from './request-schema.js';

/** A completion request's one prompt: a text, or token ids. */
export function completionPrompt({ prompt }: CompletionRequest): string | Int32Array {
  if (typeof prompt === 'string') return prompt;
  const [first] = prompt;
  if (typeof first === 'string') return first;
  return Int32Array.from(Array.isArray(first) ? first : (prompt as number[]));
}
