import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import OpenAI from 'openai';
import { onTestFinished } from 'vitest';
import { type ApiErrorBody, createServer, type ServerOptions } from '../src/index.js';
import { FakeModel, type FakeModelOptions } from './fake-model.js';

export interface TestServer {
  model: FakeModel;
  server: FastifyInstance;
  url: string;
  /** The official client, pointed at the server and told not to try again. */
  client: OpenAI;
  /** Sends JSON and returns what came back: of interest where it is an error. */
  post(path: string, body: unknown): Promise<{ status: number; body: ApiErrorBody }>;
}

/** A server over a fake model on a free port, closed when the test has finished. */
export async function startServer(
  modelOptions: FakeModelOptions = {},
  serverOptions: Omit<ServerOptions, 'model'> = {},
): Promise<TestServer> {
  const model = new FakeModel(modelOptions);
  const server = createServer({ model, graceMs: 0, ...serverOptions });
  await server.listen({ host: '127.0.0.1', port: 0 });
  onTestFinished(() => server.close());
  const { port } = server.server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  return {
    model,
    server,
    url,
    client: new OpenAI({ baseURL: `${url}/v1`, apiKey: serverOptions.apiKey ?? 'none', maxRetries: 0 }),
    post: async (path, body) => {
      const response = await fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      return { status: response.status, body: (await response.json()) as ApiErrorBody };
    },
  };
}

/** Waits until a condition holds. */
export async function until(condition: () => boolean, what: string, milliseconds = 4000): Promise<void> {
  const deadline = Date.now() + milliseconds;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`still waiting after ${milliseconds} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Everything a stream yields. */
export async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) items.push(item);
  return items;
}
