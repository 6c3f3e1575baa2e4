import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface FakeHub extends AsyncDisposable {
  /** For HF_ENDPOINT. */
  url: string;
  /** `METHOD path [range]` of every request so far. */
  requests: string[];
  /** What the next requests for a file get instead of the truth; used up one by one. */
  faults: Record<string, Fault[]>;
  /** Authorization headers seen. */
  tokens: Set<string | undefined>;
}

/** A fault of one download: the connection breaks or falls silent after some bytes, or an answer that is not the file. */
export interface Fault {
  breakAfter?: number;
  silentAfter?: number;
  status?: number;
  corrupt?: boolean;
  ignoreRange?: boolean;
}

export const COMMIT = '0123456789abcdef0123456789abcdef01234567';

/** A server that speaks as much of the Hugging Face hub's HTTP interface as downloading takes. */
export async function fakeHub(id: string, files: Record<string, Buffer>): Promise<FakeHub> {
  const requests: string[] = [];
  const faults: Record<string, Fault[]> = {};
  const tokens = new Set<string | undefined>();
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    const path = decodeURIComponent(request.url!);
    requests.push([request.method, path, request.headers.range].filter(Boolean).join(' '));
    tokens.add(request.headers.authorization);
    if (path === `/api/models/${id}/revision/main?blobs=true`) {
      const siblings = Object.entries(files).map(([rfilename, data]) => {
        const isLarge = /\.(safetensors|gguf)$/.test(rfilename);
        const blobId = createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex');
        const lfs = { sha256: createHash('sha256').update(data).digest('hex'), size: data.length, pointerSize: 134 };
        return { rfilename, size: data.length, ...(isLarge ? { blobId: 'of the pointer', lfs } : { blobId }) };
      });
      response.end(JSON.stringify({ id, sha: COMMIT, siblings }));
      return;
    }
    const prefix = `/${id}/resolve/${COMMIT}/`;
    const data = path.startsWith(prefix) ? files[path.slice(prefix.length)] : undefined;
    if (data === undefined) {
      response.writeHead(404).end('Repository not found');
      return;
    }
    const fault = faults[path.slice(prefix.length)]?.shift() ?? {};
    if (fault.status !== undefined) {
      response.writeHead(fault.status).end('no');
      return;
    }
    const asked = fault.ignoreRange ? undefined : /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1];
    const begin = Number(asked ?? 0);
    if (asked !== undefined && begin >= data.length) {
      response.writeHead(416, { 'content-range': `bytes */${data.length}` }).end();
      return;
    }
    let body = data.subarray(begin);
    if (fault.corrupt) body = Buffer.from(body.map((byte) => byte ^ 1));
    const range = asked === undefined ? {} : { 'content-range': `bytes ${begin}-${data.length - 1}/${data.length}` };
    response.writeHead(asked === undefined ? 200 : 206, { 'content-length': body.length, ...range });
    const { breakAfter, silentAfter } = fault;
    if (breakAfter !== undefined) {
      response.write(body.subarray(0, breakAfter), () => setTimeout(() => request.socket.destroy(), 20));
    } else if (silentAfter !== undefined) {
      response.flushHeaders();
      if (silentAfter > 0) response.write(body.subarray(0, silentAfter));
    } else {
      response.end(body);
    }
  };
  const server = createServer(handle);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    faults,
    tokens,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
