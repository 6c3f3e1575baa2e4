import { Device, type DeviceOptions } from '../src/device.js';
import type { Native, Status } from '../src/native.js';

const MEGABYTE = 2 ** 20;
/** Questions, and giving back. */
const NEVER_FAILS =
  /^(error|device|versions|open|createSample|setSamples|detach|free|unpin|destroy|setDevice)|Workspace$/;

/** What a {@link FakeNative} saw: the name of a call and its arguments. */
export interface Call {
  name: string;
  args: unknown[];
}

/**
 * A device that computes nothing and checks everything: that addresses lie in live allocations, that handles are alive, that
 * nothing is freed twice. Calls can be made to fail.
 */
export class FakeNative {
  readonly calls: Call[] = [];
  readonly allocations = new Map<number, number>();
  readonly pinned = new Map<number, number>();
  /** Of pinned memory, by its address. */
  readonly buffers = new Map<number, ArrayBuffer>();
  readonly handles = new Map<number, 'stream' | 'event' | 'graph'>();
  readonly problems: string[] = [];
  /** Status to return from the next call of a name. */
  readonly failures = new Map<string, Status>();
  /** The so many-th call from now that allocates, queues or waits fails with `status`. */
  failAt: { calls: number; status: Status } | undefined;
  cublasLt = { open: false, path: '', whyNot: 'the fake has none', workspaceBytes: 0 };
  totalMemory = 1024 * MEGABYTE;
  #next = 0x7f0000000000;
  /** Calls being captured, and those of each graph. */
  #capturing: { stream: number; calls: Call[] } | undefined;
  readonly #graphs = new Map<number, Call[]>();

  /** A device over this fake. */
  device(options: Omit<DeviceOptions, 'emulate'> = {}): Device {
    return new Device(options, this.native);
  }

  /** Names of the calls since the last {@link forget}. */
  get names(): string[] {
    return this.calls.map((call) => call.name);
  }

  forget(): void {
    this.calls.length = 0;
  }

  /** Everything that is still held. */
  get live(): number {
    return this.allocations.size + this.pinned.size + this.handles.size;
  }

  readonly native: Native = new Proxy({} as Native, {
    get: (_, name: string) =>
      name === 'kind'
        ? 'cuda'
        : (...args: unknown[]) => {
            this.#note({ name, args });
            const failure = this.failures.get(name) ?? this.#due(name);
            this.failures.delete(name);
            return this.#answer(name, args, failure ?? 0);
          },
  });

  /** Takes note of a call, or of what a graph repeats. */
  #note(call: Call): void {
    const { name, args } = call;
    if (this.#capturing && args[0] === this.#capturing.stream && name !== 'endCapture')
      this.#capturing.calls.push(call);
    else this.calls.push(call);
    if (name === 'launchGraph') this.calls.push(...(this.#graphs.get(args[0] as number) ?? []));
  }

  /** The status that a call is to fail with, if its turn has come. */
  #due(name: string): Status | undefined {
    if (this.failAt === undefined || NEVER_FAILS.test(name)) return undefined;
    this.failAt.calls -= 1;
    if (this.failAt.calls > 0) return undefined;
    const { status } = this.failAt;
    this.failAt = undefined;
    return status;
  }

  #take(bytes: number): number {
    const address = this.#next;
    this.#next += Math.ceil((bytes + 1) / 256) * 256;
    return address;
  }

  #answer(name: string, args: unknown[], status: Status): unknown {
    const [first] = args as number[];
    switch (name) {
      case 'deviceCount':
        return { status, value: 1 };
      case 'versions':
        return { driver: 13000, runtime: 13000 };
      case 'deviceProperties':
        return {
          status,
          value: {
            name: 'fake GPU',
            major: 9,
            minor: 0,
            multiprocessors: 132,
            totalMemory: this.totalMemory,
            l2CacheBytes: 50 * MEGABYTE,
            sharedMemoryPerBlock: 232448,
          },
        };
      case 'memoryInfo':
        return { status, value: { free: this.totalMemory / 2, total: this.totalMemory } };
      case 'errorName':
        return `cudaError${first}`;
      case 'errorText':
        return `text of error ${first}`;
      case 'allocate': {
        if (this.#capturing) this.problems.push('allocate while capturing');
        const address = status === 0 ? this.#take(first!) : 0;
        if (status === 0) this.allocations.set(address, first!);
        return { status, value: address };
      }
      case 'allocatePinned': {
        if (status !== 0) return { status, value: undefined };
        const pointer = this.#take(first!);
        const buffer = new ArrayBuffer(first!);
        this.pinned.set(pointer, first!);
        this.buffers.set(pointer, buffer);
        return { status, value: { pointer, buffer } };
      }
      case 'pinArray': {
        const address = status === 0 ? this.#take((args[0] as ArrayBufferView).byteLength) : 0;
        if (status === 0) this.pinned.set(address, (args[0] as ArrayBufferView).byteLength);
        return { status, value: address };
      }
      case 'unpin':
        if (!this.pinned.delete(first!)) this.problems.push(`unpin of ${first}`);
        return status;
      case 'detach':
        structuredClone(args[0], { transfer: [args[0] as ArrayBuffer] });
        return undefined;
      case 'createStream':
      case 'createEvent':
        return { status, value: this.#make(name === 'createStream' ? 'stream' : 'event', status) };
      case 'beginCapture':
        this.#alive(first!, 'stream', name);
        if (this.#capturing) this.problems.push('beginCapture while capturing');
        if (status === 0) this.#capturing = { stream: first!, calls: [] };
        return status;
      case 'endCapture': {
        this.#alive(first!, 'stream', name);
        if (this.#capturing?.stream !== first) this.problems.push('endCapture of what is not captured');
        const graph = this.#make('graph', status);
        if (status === 0) this.#graphs.set(graph, this.#capturing?.calls ?? []);
        this.#capturing = undefined;
        return { status, value: graph };
      }
      case 'elapsed':
        for (const event of args as number[]) this.#alive(event, 'event', name);
        return { status, value: 1.5 };
      case 'createSampleSelector':
        return { selects: 'samples' };
      case 'openCublasLt':
        return this.cublasLt;
      case 'attentionDecodeWorkspace': {
        const [sequences, heads, dim, keys, split] = args as number[];
        const splits = Math.ceil(keys! / split!);
        return splits <= 1 ? 0 : sequences! * heads! * splits * (dim! + 1) * 4;
      }
      case 'tableBuildWorkspace': {
        const [keys, bits, tables] = args as number[];
        return bits! <= 11 ? 0 : keys! * tables! * 2;
      }
      case 'sketchDrawWorkspace':
        return (args as number[]).reduce((sum, value) => sum + value);
      case 'free':
        if (!this.allocations.delete(first!)) this.problems.push(`free of ${first}`);
        return status;
      case 'freePinned':
        this.buffers.delete(first!);
        if (!this.pinned.delete(first!)) this.problems.push(`freePinned of ${first}`);
        return status;
      case 'destroyStream':
      case 'destroyEvent':
      case 'destroyGraph':
        this.#graphs.delete(first!);
        if (!this.handles.delete(first!)) this.problems.push(`${name} of ${first}`);
        return status;
      case 'recordEvent':
        this.#alive(first!, 'event', name);
        this.#alive(args[1] as number, 'stream', name);
        return status;
      case 'waitEvent':
        this.#alive(first!, 'stream', name);
        this.#alive(args[1] as number, 'event', name);
        return status;
      case 'launchGraph':
        this.#alive(first!, 'graph', name);
        this.#alive(args[1] as number, 'stream', name);
        return status;
      case 'queryEvent':
      case 'synchronizeEvent':
        this.#alive(first!, 'event', name);
        return status;
      case 'setDevice':
      case 'synchronizeDevice':
        return status;
      default:
        this.#memory(name, args);
        return status;
    }
  }

  #make(kind: 'stream' | 'event' | 'graph', status: Status): number {
    if (status !== 0) return 0;
    const handle = this.#take(8);
    this.handles.set(handle, kind);
    return handle;
  }

  #alive(handle: number, kind: string, by: string): void {
    if (this.handles.get(handle) !== kind) this.problems.push(`${by}: ${handle} is no live ${kind}`);
  }

  // Whatever looks like an address has to lie in live memory (or be a live stream).
  #memory(name: string, args: unknown[]): void {
    for (const value of args) {
      if (typeof value !== 'number' || value < 0x700000000000) continue;
      const inside = [...this.allocations, ...this.pinned].some(
        ([start, size]) => value >= start && value <= start + size,
      );
      if (!inside && !this.handles.has(value)) this.problems.push(`${name}: ${value} is no live memory`);
    }
  }
}
