import { Template } from '@huggingface/jinja';
import type { ChatMessage } from '../checkpoint.js';
import { ChatTemplateError } from '../errors.js';

/** The texts of a model's chat templates. */
export interface ChatTemplateSource {
  /** For conversations. */
  default: string;
  /** For conversations with tools, where the model has another one for them. */
  toolUse?: string | undefined;
  /** `bos_token`, `eos_token`, ... as templates know them. */
  specialTokens: Record<string, string>;
}

/** A model's chat template, compiled when first used. */
export class ChatTemplate {
  readonly #source: ChatTemplateSource;
  readonly #compiled = new Map<string, Template>();

  constructor(source: ChatTemplateSource) {
    this.#source = source;
  }

  /**
   * The conversation as one string, ready for the assistant's answer.
   * @throws ChatTemplateError when the template is malformed or refuses the messages.
   */
  render(messages: readonly ChatMessage[], tools: readonly unknown[] | undefined): string {
    const withTools = tools !== undefined && tools.length > 0;
    const text = (withTools ? this.#source.toolUse : undefined) ?? this.#source.default;
    try {
      return this.#compile(text).render({
        ...this.#source.specialTokens,
        messages,
        tools: withTools ? tools : null,
        documents: null,
        add_generation_prompt: true,
      });
    } catch (cause) {
      throw new ChatTemplateError(`The model's chat template refuses the conversation: ${(cause as Error).message}`, {
        cause,
      });
    }
  }

  #compile(text: string): Template {
    let template = this.#compiled.get(text);
    if (template === undefined) {
      template = new Template(text);
      this.#compiled.set(text, template);
    }
    return template;
  }
}
