import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KvFiles, KvSequence } from './kv-cache.js';

/** What a snapshot is of. */
export interface SnapshotContent {
  /** Tokens in the cache. */
  tokens: Int32Array;
  /** How many of them, from the first, were computed as part of prompts only. */
  exactTokens: number;
  /** The policy that the others depend on, and whose state is saved too; empty when there are none of either. */
  policy: string;
}

export interface Snapshot extends SnapshotContent {
  /** Of its files, without their endings. */
  readonly name: string;
}

export interface SnapshotsOptions {
  /** Made when it is missing. Other files in it are left alone. */
  directory: string;
  /** Bytes of all snapshots in the directory, those of other models included. */
  maxBytes: number;
  /** Tells models, formats and versions apart whose snapshots are of no use to each other; hexadecimal. */
  fingerprint: string;
  files: KvFiles;
  /** Is told about files that are of no use, which are then removed, and of those that cannot be written. */
  warn(message: string): void;
}

/** Characters of a fingerprint and of an id in a file's name. */
const DIGITS = 16;
const FILE_NAME = /^([0-9a-f]{16}-[0-9a-f]{16})\.(json|kv)$/;
const TEMPORARY_NAME = /^[0-9a-f]{16}-[0-9a-f]{16}\.(json|kv)\.tmp/;
/** What an interrupted process left is of no use; younger files may be another's, at work. */
const ORPHAN_MS = 600_000;
/** The attachment that ties a cache to its description. */
const ID = 'snapshot-id';

/**
 * Keys, values and tables of earlier requests in files. A snapshot is a cache (`.kv`, checksummed) and its description
 * (`.json`, written last): half-written ones are never seen. Files that are damaged, or not what their names say, are
 * removed with a warning. The least recently used go when the directory is full. Several processes may share it.
 */
export class Snapshots {
  readonly #options: SnapshotsOptions;
  readonly #prefix: string;
  readonly #known = new Map<string, Snapshot>();

  /** @throws when the directory cannot be made or read. */
  constructor(options: SnapshotsOptions) {
    this.#options = options;
    this.#prefix = `${options.fingerprint.slice(0, DIGITS)}-`;
    mkdirSync(options.directory, { recursive: true });
    for (const name of this.#names()) if (name.startsWith(this.#prefix)) this.#describe(name);
    for (const file of readdirSync(options.directory)) {
      if (TEMPORARY_NAME.test(file) && this.#isOld(file)) rmSync(join(options.directory, file), { force: true });
    }
  }

  /**
   * The snapshot that has most of the first `limit` tokens in common with a sequence of some policy, more than `least`.
   *
   * @returns It, and how many tokens.
   */
  find(tokens: Int32Array, policy: string, limit: number, least: number): Snapshot | undefined {
    let best: Snapshot | undefined;
    let most = least;
    for (const snapshot of this.#known.values()) {
      const usable = snapshot.policy === policy ? snapshot.tokens.length : snapshot.exactTokens;
      const common = commonTokens(snapshot.tokens, tokens, Math.min(usable, limit));
      if (common <= most) continue;
      best = snapshot;
      most = common;
    }
    return best;
  }

  /** Whether a sequence, as it is, is part of a snapshot. */
  covers(content: SnapshotContent): boolean {
    return [...this.#known.values()].some((snapshot) => isPart(content, snapshot));
  }

  /** Opens a snapshot's cache, and marks it as used; undefined when its files turn out to be of no use. */
  load(snapshot: Snapshot): { cache: KvSequence; attachments: Record<string, Uint8Array> } | undefined {
    const path = this.#path(snapshot.name);
    let cache: KvSequence | undefined;
    try {
      const loaded = this.#options.files.load(`${path}.kv`);
      cache = loaded.sequence;
      const { [ID]: id, ...attachments } = loaded.attachments;
      if (!id || Buffer.from(id).toString() !== snapshot.name || cache.length !== snapshot.tokens.length) {
        throw new Error('it is not the cache that its description is of');
      }
      const now = new Date();
      utimesSync(`${path}.json`, now, now);
      return { cache, attachments };
    } catch (error) {
      cache?.[Symbol.dispose]();
      if ((error as { code?: unknown }).code === 'OUT_OF_MEMORY') return undefined;
      this.#reject(snapshot.name, error);
      return undefined;
    }
  }

  /**
   * Writes a snapshot, in place of those that it continues, and makes room for it. What cannot be written is not: with a
   * warning.
   *
   * @param bytes Of cache and attachments, about.
   */
  save(content: SnapshotContent, cache: KvSequence, attachments: Record<string, Uint8Array>, bytes: number): void {
    const name = this.#prefix + idOf(content);
    const path = this.#path(name);
    try {
      if (bytes > this.#options.maxBytes) return;
      this.#makeRoom(bytes);
      this.#options.files.save(cache, `${path}.kv`, { ...attachments, [ID]: Buffer.from(name) });
      writeFileSync(`${path}.json.tmp`, encode(content, this.#options.fingerprint));
      renameSync(`${path}.json.tmp`, `${path}.json`);
    } catch (error) {
      this.#options.warn(`The snapshot ${path} cannot be written: ${messageOf(error)}`);
      return;
    }
    for (const [other, snapshot] of this.#known) if (other !== name && isPart(snapshot, content)) this.#remove(other);
    this.#known.set(name, { name, ...content });
    this.#makeRoom(0);
  }

  /** Removes a snapshot of no use, with a warning. */
  discard({ name }: Snapshot, reason: unknown): void {
    this.#reject(name, reason);
  }

  /** Reads one description. */
  #describe(name: string): void {
    const path = this.#path(name);
    try {
      const content = decode(readFileSync(`${path}.json`, 'utf8'), this.#options.fingerprint);
      if (name !== this.#prefix + idOf(content)) throw new Error('it describes another snapshot');
      this.#known.set(name, { name, ...content });
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') this.#reject(name, error);
      else if (this.#isOld(`${name}.kv`)) this.#remove(name);
    }
  }

  #reject(name: string, error: unknown): void {
    this.#options.warn(`The snapshot ${this.#path(name)} is of no use and is removed: ${messageOf(error)}`);
    this.#remove(name);
  }

  /** Removes the least recently used snapshots until another of `bytes` fits. */
  #makeRoom(bytes: number): void {
    const snapshots = this.#names().map((name) => {
      const [cache, description] = [this.#stat(`${name}.kv`), this.#stat(`${name}.json`)];
      const used = description?.mtimeMs ?? cache?.mtimeMs ?? 0;
      return { name, used, bytes: (cache?.size ?? 0) + (description?.size ?? 0) };
    });
    snapshots.sort((a, b) => a.used - b.used);
    let total = snapshots.reduce((sum, snapshot) => sum + snapshot.bytes, bytes);
    for (const snapshot of snapshots) {
      if (total <= this.#options.maxBytes) return;
      this.#remove(snapshot.name);
      total -= snapshot.bytes;
    }
  }

  #remove(name: string): void {
    this.#known.delete(name);
    // The description first: without it the cache is not seen. A process that has it open keeps it.
    for (const ending of ['json', 'kv']) rmSync(`${this.#path(name)}.${ending}`, { force: true });
  }

  #names(): string[] {
    const names = readdirSync(this.#options.directory).flatMap((file) => FILE_NAME.exec(file)?.[1] ?? []);
    return [...new Set(names)];
  }

  #path(name: string): string {
    return join(this.#options.directory, name);
  }

  #isOld(file: string): boolean {
    const { mtimeMs = Number.POSITIVE_INFINITY } = this.#stat(file) ?? {};
    return Date.now() - mtimeMs > ORPHAN_MS;
  }

  #stat(file: string) {
    return statSync(join(this.#options.directory, file), { throwIfNoEntry: false });
  }
}

function idOf({ tokens, exactTokens, policy }: SnapshotContent): string {
  const hash = createHash('sha256').update(`${exactTokens} ${policy} `).update(bytesOf(tokens));
  return hash.digest('hex').slice(0, DIGITS);
}

/** Whether all of one sequence is the beginning of another, and of as much use there. */
function isPart(part: SnapshotContent, whole: SnapshotContent): boolean {
  const { length } = part.tokens;
  const alike = part.exactTokens === length ? whole.exactTokens >= length : part.exactTokens === whole.exactTokens;
  if ((part.policy !== '' && part.policy !== whole.policy) || !alike) return false;
  return commonTokens(part.tokens, whole.tokens, length) === length;
}

function commonTokens(a: Int32Array, b: Int32Array, limit: number): number {
  const most = Math.min(a.length, b.length, limit);
  let same = 0;
  while (same < most && a[same] === b[same]) same += 1;
  return same;
}

function encode({ tokens, exactTokens, policy }: SnapshotContent, fingerprint: string): string {
  const body = { fingerprint, policy, exactTokens, tokens: Buffer.from(bytesOf(tokens)).toString('base64') };
  return `${JSON.stringify({ ...body, sha256: checksum(body) })}\n`;
}

/** @throws Error for anything that {@link encode} did not write. */
function decode(text: string, fingerprint: string): SnapshotContent {
  const { sha256, ...body } = JSON.parse(text) as Record<string, unknown>;
  if (sha256 !== checksum(body)) throw new Error('its description is damaged');
  if (body.fingerprint !== fingerprint) throw new Error('it is of another model');
  const bytes = Uint8Array.from(Buffer.from(body.tokens as string, 'base64'));
  return {
    tokens: new Int32Array(bytes.buffer),
    exactTokens: body.exactTokens as number,
    policy: body.policy as string,
  };
}

function checksum(body: object): string {
  return createHash('sha256').update(JSON.stringify(body)).digest('hex');
}

function bytesOf(tokens: Int32Array): Uint8Array {
  return new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
