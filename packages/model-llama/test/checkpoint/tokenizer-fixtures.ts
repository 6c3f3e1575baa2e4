import { readFileSync } from 'node:fs';
import type { ChatMessage } from '../../src/checkpoint.js';

interface Expected {
  /** Ids by text, special tokens being text. */
  ids: number[][];
  /** Ids by text, special tokens being recognised, with what the model puts before a text. */
  special: number[][];
  decoded: string[];
}

interface Trained extends Expected {
  /** tokenizer.json */
  tokenizer: {
    model: { vocab: Record<string, number>; merges: [string, string][] };
    added_tokens: { id: number; content: string; special: boolean }[];
  };
}

/** See scripts/make_tokenizer_fixtures.py. */
export const fixtures = JSON.parse(readFileSync(new URL('./fixtures/tokenizers.json', import.meta.url), 'utf8')) as {
  texts: string[];
  smollm2: Expected & { chats: { messages: ChatMessage[]; text: string; ids: number[] }[] };
  llama3: Trained;
  qwen2: Trained;
  tekken: Trained;
  gpt2: Trained;
  llama2: Omit<Trained, 'ids'>;
  mistral: Omit<Trained, 'ids'>;
  split: Omit<Trained, 'ids'>;
  sentencepiece: {
    tokens: string[];
    scores: number[];
    types: number[];
    texts: string[];
    ids: number[][];
    decoded: string[];
  };
};
