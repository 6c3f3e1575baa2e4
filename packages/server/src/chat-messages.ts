import type { ChatMessage } from '@magicpig/model-llama';
import type { ChatRequest } from './request-schema.js';

/**
 * A request's messages as chat templates know them: content in one text, OpenAI's newer name of the system role undone.
 * Other fields (`name`, `tool_calls`, ...) reach the template as they are.
 */
export function chatMessages({ messages }: ChatRequest): ChatMessage[] {
  return messages.map(({ role, content, ...rest }) => ({
    ...rest,
    role: role === 'developer' ? 'system' : role,
    content: Array.isArray(content) ? content.map(({ text }) => text).join('') : (content ?? ''),
  }));
}
