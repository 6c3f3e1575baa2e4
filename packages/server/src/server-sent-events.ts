/** One item of an event stream: data for the client, or a comment that clients skip. */
export type StreamItem = { data: object } | { comment: string };

/**
 * An event stream as OpenAI writes it: `data:` lines, `[DONE]` at the end. When `items` throws, the error goes out as the
 * last event, without `[DONE]`, so that a cut stream never passes for a whole one.
 */
export async function* serverSentEvents(
  items: AsyncIterable<StreamItem>,
  errorBody: (error: unknown) => object,
): AsyncGenerator<string, void, undefined> {
  try {
    for await (const item of items) {
      yield 'data' in item ? `data: ${JSON.stringify(item.data)}\n\n` : `: ${item.comment}\n\n`;
    }
    yield 'data: [DONE]\n\n';
  } catch (error) {
    yield `data: ${JSON.stringify(errorBody(error))}\n\n`;
  }
}
