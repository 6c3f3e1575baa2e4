import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DownloadRefused, downloadFile, explain } from './download-file.js';
import { withFileLock } from './file-lock.js';
import type { ExpectedHash } from './hash-file.js';
import type { OpenCheckpointOptions } from './open-options.js';

/** A model on the Hugging Face hub: `owner/name`, `owner/name@revision`, `owner/name/file.gguf`. */
export interface HubModel {
  id: string;
  /** Branch, tag or commit. */
  revision: string;
  /** One .gguf file of the repository (the first, when it is split). */
  file: string | undefined;
}

const ENDPOINT = 'https://huggingface.co';
// Long enough for any network that works, short enough for a machine without one to go on to the next source.
const FIRST_ANSWER_MS = 5_000;

const SMALL_FILES = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'chat_template.json',
];

/** What a source looks like as a hub id, if it does. */
export function parseHubModel(source: string): HubModel | undefined {
  const match = /^([\w-][\w.-]*\/[\w-][\w.-]*)(?:@([\w][\w.-]*))?(?:\/((?:[\w-][\w.-]*\/)*[\w-][\w.-]*\.gguf))?$/.exec(
    source,
  );
  if (match === null) return undefined;
  return { id: match[1]!, revision: match[2] ?? 'main', file: match[3] };
}

/** Where a hub model is in the cache, if it is there whole. */
export async function cachedHubModel(model: HubModel, cacheDir: string): Promise<string | undefined> {
  const directory = modelDirectory(model, cacheDir);
  return existsSync(directory) ? openable(directory) : undefined;
}

/**
 * A hub model's directory or .gguf file, downloaded into the cache unless it is there. Files are checked against the
 * sizes and hashes that the hub announces; an interrupted download goes on where it stopped. HF_ENDPOINT names another
 * hub, HF_TOKEN is sent to it, HF_HUB_OFFLINE=1 keeps from asking it.
 *
 * @throws Error that says why not, the signal's reason.
 */
export async function hubModel(model: HubModel, cacheDir: string, options: OpenCheckpointOptions): Promise<string> {
  const cached = await cachedHubModel(model, cacheDir);
  if (cached !== undefined) return cached;
  if (/^(1|true|yes|on)$/i.test(process.env.HF_HUB_OFFLINE ?? '')) throw new Error('HF_HUB_OFFLINE is set');

  const { signal, onProgress } = options;
  const endpoint = (process.env.HF_ENDPOINT || ENDPOINT).replace(/\/+$/, '');
  const headers: Record<string, string> = { 'User-Agent': 'magicpig' };
  if (process.env.HF_TOKEN) headers.Authorization = `Bearer ${process.env.HF_TOKEN}`;
  const { commit, files } = await listFiles(model, endpoint, headers, signal);
  const wanted = selectFiles(files, model);

  const directory = modelDirectory(model, cacheDir);
  await mkdir(dirname(directory), { recursive: true });
  return withFileLock(`${directory}.lock`, signal, async () => {
    const arrived = await cachedHubModel(model, cacheDir); // while another process held the lock
    if (arrived !== undefined) return arrived;
    // Named after the commit: parts of another state of the repository are never continued.
    const partial = `${directory}.${commit.slice(0, 12)}.partial`;
    for (const name of await readdir(dirname(directory))) {
      const other = join(dirname(directory), name);
      const isPartial = other.startsWith(directory) && /^\.[^.]+\.partial$/.test(other.slice(directory.length));
      if (isPartial && other !== partial) await rm(other, { recursive: true, force: true });
    }
    const total = wanted.reduce((sum, file) => sum + (file.size ?? 0), 0);
    let before = 0;
    for (const file of wanted) {
      const path = join(partial, file.name);
      await mkdir(dirname(path), { recursive: true });
      const report = (done: number) => onProgress?.({ stage: 'download', item: model.id, done: before + done, total });
      if (!existsSync(path)) {
        const url = `${endpoint}/${model.id}/resolve/${commit}/${file.name.split('/').map(encodeURIComponent).join('/')}`;
        await downloadFile({ url, headers, path, size: file.size, hash: file.hash, signal, onProgress: report });
      }
      report(file.size ?? 0);
      before += file.size ?? 0;
    }
    await rename(partial, directory);
    return openable(directory);
  });
}

interface HubFile {
  name: string;
  size: number | undefined;
  hash: ExpectedHash | undefined;
}

async function listFiles(
  model: HubModel,
  endpoint: string,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): Promise<{ commit: string; files: HubFile[] }> {
  const url = `${endpoint}/api/models/${model.id}/revision/${encodeURIComponent(model.revision)}?blobs=true`;
  const timeout = AbortSignal.timeout(FIRST_ANSWER_MS);
  let info: {
    sha?: unknown;
    siblings?: { rfilename?: unknown; size?: unknown; blobId?: unknown; lfs?: { sha256?: unknown } }[];
  };
  try {
    const response = await fetch(url, { headers, signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
    if (!response.ok) {
      await response.body?.cancel();
      throw new DownloadRefused(response.status, url);
    }
    info = (await response.json()) as typeof info;
  } catch (error) {
    signal?.throwIfAborted();
    if (timeout.aborted)
      throw new Error(`${endpoint} did not answer within ${FIRST_ANSWER_MS / 1000} s`, { cause: error });
    throw error instanceof DownloadRefused ? error : new Error(`${endpoint}: ${explain(error)}`, { cause: error });
  }
  if (typeof info?.sha !== 'string' || !/^[\w.-]+$/.test(info.sha) || !Array.isArray(info.siblings)) {
    throw new Error(`${url} did not answer with a list of files`);
  }
  const files: HubFile[] = [];
  for (const { rfilename: name, size, blobId, lfs } of info.siblings) {
    if (typeof name !== 'string') continue;
    const sha256 = lfs?.sha256;
    const hash =
      typeof sha256 === 'string'
        ? { sha256 }
        : typeof blobId === 'string' && lfs === undefined
          ? { gitBlob: blobId }
          : undefined;
    files.push({ name, size: typeof size === 'number' ? size : undefined, hash });
  }
  return { commit: info.sha, files };
}

/** The files that a model needs of those in its repository: safetensors before GGUF, unless one is asked for. */
function selectFiles(files: HubFile[], model: HubModel): HubFile[] {
  const byName = new Map(files.map((file) => [file.name, file]));
  const of = (names: string[]) => names.map((name) => byName.get(name)).filter((file) => file !== undefined);
  const ggufs = files.filter(({ name }) => parseHubModel(`a/b/${name}`)?.file === name);

  if (model.file !== undefined) {
    const parts = of(partsOf(model.file));
    if (parts.length === 0) throw new Error(`${model.id} has no file ${model.file}${listed(ggufs)}`);
    return parts;
  }
  const shards = files.filter(({ name }) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(name));
  if (byName.has('model.safetensors.index.json') && shards.length > 0) {
    return [...of([...SMALL_FILES, 'model.safetensors.index.json']), ...shards];
  }
  if (byName.has('model.safetensors')) return of([...SMALL_FILES, 'model.safetensors']);
  const models = ggufs.filter(({ name }) => !/-(?!00001)\d{5}-of-\d{5}\.gguf$/.test(name));
  if (models.length === 1) return of(partsOf(models[0]!.name));
  if (models.length > 1)
    throw new Error(`${model.id} has several GGUF files: name one, as in ${model.id}/FILE${listed(models)}`);
  throw new Error(`${model.id} has neither safetensors nor GGUF files`);
}

function partsOf(file: string): string[] {
  const match = /^(.*)-00001-of-(\d{5})\.gguf$/.exec(file);
  if (match === null) return [file];
  return Array.from(
    { length: Number(match[2]) },
    (_, i) => `${match[1]}-${String(i + 1).padStart(5, '0')}-of-${match[2]}.gguf`,
  );
}

function listed(files: HubFile[]): string {
  return files.length === 0 ? '' : ` (${files.map(({ name }) => name).join(', ')})`;
}

function modelDirectory({ id, revision, file }: HubModel, cacheDir: string): string {
  const choice = file === undefined ? '' : `--${file.replaceAll('/', '--')}`;
  return join(cacheDir, 'hub', `${id.replace('/', '--')}@${revision}${choice}`);
}

/** What to open in a downloaded directory: itself, or its (first) .gguf file. */
async function openable(directory: string): Promise<string> {
  if (existsSync(join(directory, 'config.json'))) return directory;
  const files = (await readdir(directory, { recursive: true })).filter((name) => name.endsWith('.gguf')).sort();
  return files.length > 0 ? join(directory, files[0]!) : directory;
}
