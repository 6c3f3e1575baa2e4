import { join } from 'node:path';
import { CheckpointError } from '../errors.js';
import type { ChatTemplateSource } from './chat-template.js';
import { JsonObject } from './json-object.js';
import type { TokenizerSource } from './model-tokenizer.js';
import { readJson, readText } from './read-json.js';
import { parseTokenizerJson, type TokenizerJson } from './tokenizer-json.js';

const SPECIAL_KEYS = ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token'];

/**
 * The tokenizer of a Hugging Face directory: tokenizer.json, with tokenizer_config.json, generation_config.json,
 * config.json and chat_template.jinja where they are there.
 *
 * @throws CheckpointError
 */
export function huggingFaceTokenizer(directory: string): TokenizerSource {
  const file = join(directory, 'tokenizer.json');
  const value = readJson(file);
  if (value === undefined) {
    throw new CheckpointError(
      'there is no such file, and the tokenizer is read from it. Save the model with a fast tokenizer ' +
        '(AutoTokenizer.from_pretrained(...).save_pretrained(...) makes one)',
      { file },
    );
  }
  const json = parseTokenizerJson(value, file);
  const optional = (name: string) => new JsonObject(readJson(join(directory, name)) ?? {}, join(directory, name));
  const config = optional('tokenizer_config.json');

  const specialTokens: Record<string, string> = {};
  for (const key of SPECIAL_KEYS) {
    const content = tokenContent(config.get(key));
    if (content !== undefined) specialTokens[key] = content;
  }
  const extra = config.get('additional_special_tokens') ?? config.get('extra_special_tokens');
  const others = (Array.isArray(extra) ? extra : []).map(tokenContent).filter((token) => token !== undefined);
  markSpecial(json, [...Object.values(specialTokens), ...others]);

  const idOf = (content: string | undefined) =>
    content === undefined
      ? undefined
      : (json.addedTokens.find((token) => token.content === content)?.id ?? json.model.vocab.get(content));
  const eosTokens = [
    idOf(specialTokens.eos_token),
    ...ids(optional('generation_config.json').get('eos_token_id')),
    ...ids(optional('config.json').get('eos_token_id')),
  ].filter((id) => id !== undefined);

  // The class of the tokenizer obeys add_bos_token where it is given; else tokenizer.json's post-processor decides.
  const addsBos = config.boolean('add_bos_token');
  const bosToken =
    addsBos === undefined
      ? firstTemplateToken(json.postProcessor, file)
      : addsBos
        ? idOf(specialTokens.bos_token)
        : undefined;
  return { json, file, bosToken, eosTokens, chatTemplate: chatTemplate(directory, config, specialTokens) };
}

/** Tokens that the configuration names as special are so, whatever tokenizer.json calls them. */
function markSpecial(json: TokenizerJson, contents: Iterable<string>): void {
  for (const content of contents) {
    const added = json.addedTokens.find((token) => token.content === content);
    const id = json.model.vocab.get(content);
    if (added !== undefined) added.special = true;
    else if (id !== undefined && content !== '') {
      json.addedTokens.push({ id, content, special: true, singleWord: false, lstrip: false, rstrip: false });
    }
  }
}

/** The special token that a TemplateProcessing puts before a text. */
function firstTemplateToken(postProcessor: unknown, file: string): number | undefined {
  if (postProcessor === undefined) return undefined;
  const node = new JsonObject(postProcessor, file, 'post_processor.');
  if (node.string('type') === 'Sequence') {
    for (const processor of node.objects('processors') ?? []) {
      const found = templateToken(processor);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  return templateToken(node);
}

function templateToken(processor: JsonObject): number | undefined {
  if (processor.string('type') !== 'TemplateProcessing') return undefined;
  const name = processor.objects('single')?.[0]?.object('SpecialToken')?.string('id');
  return name === undefined ? undefined : ids(processor.object('special_tokens')?.object(name)?.get('ids'))[0];
}

function chatTemplate(
  directory: string,
  config: JsonObject,
  specialTokens: Record<string, string>,
): ChatTemplateSource | undefined {
  const inJson = new JsonObject(
    readJson(join(directory, 'chat_template.json')) ?? {},
    join(directory, 'chat_template.json'),
  );
  const own =
    readText(join(directory, 'chat_template.jinja')) ?? inJson.get('chat_template') ?? config.get('chat_template');
  if (typeof own === 'string') return { default: own, specialTokens };
  if (!Array.isArray(own)) return undefined;
  // A list of named templates: `default`, `tool_use`, `rag`.
  const named = new Map<unknown, unknown>(own.map((item) => [item?.name, item?.template]));
  const [main, toolUse] = [named.get('default'), named.get('tool_use')];
  if (typeof main !== 'string') return undefined;
  return { default: main, toolUse: typeof toolUse === 'string' ? toolUse : undefined, specialTokens };
}

/** A special token in a configuration is a string, or an object with its content. */
function tokenContent(value: unknown): string | undefined {
  const content = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
  return typeof content === 'string' ? content : undefined;
}

/** An id or a list of ids. */
function ids(value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter((id) => Number.isInteger(id));
}
