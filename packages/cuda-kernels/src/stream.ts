import type { Device } from './device.js';
import type { DeviceArray } from './device-array.js';
import { type DType, ELEMENT_BYTES } from './dtype.js';
import { DisposedError, InvalidArgumentError } from './errors.js';
import type { Event } from './event.js';
import { Graph } from './graph.js';
import { type Address, type Native, type Status, SUCCESS } from './native.js';
import type { PinnedArray } from './pinned-array.js';
import { Replay } from './replay.js';
import { checkInteger } from './validate.js';

/** Options of {@link Device.stream}. */
export interface StreamOptions {
  /**
   * Hold work back until an event is recorded or waited for, or {@link Stream.flush}, and replay a stretch of it that comes again
   * with the same arguments as one CUDA graph. An error of a call is thrown when it is queued. Default false.
   */
  replay?: boolean;
}

/** A queue of work on a device: copies and kernels run in the order in which they were queued. */
export class Stream implements Disposable {
  readonly device: Device;
  readonly #handle: Address;
  #free: (() => void) | undefined;
  #capturing = false;
  #cublasLtWorkspace: DeviceArray<'u8'> | undefined;
  readonly #replay: Replay<Graph> | undefined;
  /** Of work that had to be queued where nothing may be thrown. */
  #failure: unknown;

  /** @internal Use {@link Device.stream}. */
  constructor(device: Device, handle: Address, free: () => void, { replay = false }: StreamOptions = {}) {
    this.device = device;
    this.#handle = handle;
    this.#free = free;
    if (!replay) return;
    this.#replay = new Replay<Graph>({
      call: (what, run) => this.device.check(what, run(this.device.native)),
      capture: (body) => this.#capture(body),
      launch: ({ handle }) =>
        this.device.check('launching a graph', this.device.native.launchGraph(handle, this.#handle)),
    });
  }

  /** Queues a copy of all of `from` to the beginning of `to`; between pinned host memory and the device, or within the device. */
  copy<T extends DType>(to: DeviceArray<T> | PinnedArray<T>, from: DeviceArray<T> | PinnedArray<T>): void {
    this.#checkCopy(to, from);
    if (from.length > to.length) {
      throw new InvalidArgumentError(`to holds ${to.length} elements, from ${from.length}.`);
    }
    const [target, source] = [to.address, from.address];
    const bytes = 'bytes' in from ? from.bytes : from.host.byteLength;
    if (bytes > 0) this.run('copying', (native, stream) => native.copy(stream, target, source, bytes));
  }

  /**
   * Queues a copy of `rows` rows of `width` elements each; strides count elements. Between pinned host memory and the device, or
   * within the device.
   */
  copyMatrix<T extends DType>(
    to: DeviceArray<T> | PinnedArray<T>,
    from: DeviceArray<T> | PinnedArray<T>,
    shape: {
      rows: number;
      width: number;
      toStride: number;
      fromStride: number;
      toOffset?: number;
      fromOffset?: number;
    },
  ): void {
    this.#checkCopy(to, from);
    const { rows, width, toStride, fromStride, toOffset = 0, fromOffset = 0 } = shape;
    for (const [name, value] of Object.entries({ rows, width, toOffset, fromOffset })) checkInteger(name, value, 0);
    for (const [name, array, stride, offset] of [
      ['to', to, toStride, toOffset],
      ['from', from, fromStride, fromOffset],
    ] as const) {
      checkInteger(`${name}Stride`, stride, width);
      const needed = rows === 0 ? 0 : offset + (rows - 1) * stride + width;
      if (array.length < needed) {
        throw new InvalidArgumentError(`${name} holds ${array.length} elements, but the copy touches ${needed}.`);
      }
    }
    const size = ELEMENT_BYTES[to.dtype];
    const [target, source] = [to.address + toOffset * size, from.address + fromOffset * size];
    if (rows === 0 || width === 0) return;
    this.run('copying', (native, stream) =>
      native.copyMatrix(stream, target, toStride * size, source, fromStride * size, width * size, rows),
    );
  }

  /** Queues setting every byte of `array`; 0 by default. */
  fill(array: DeviceArray, byte = 0): void {
    const { address, bytes } = array;
    if (bytes > 0) this.run('filling', (native, stream) => native.fillBytes(stream, address, byte, bytes));
  }

  /** Puts `event` after what is queued now. */
  record(event: Event): void {
    this.runNow('recording an event', (native, stream) => native.recordEvent(event.handle, stream));
  }

  /** What is queued from now on waits for `event` (as it was last recorded); the host does not. */
  wait(event: Event): void {
    this.runNow('waiting for an event', (native, stream) => native.waitEvent(stream, event.handle));
  }

  /** Blocks the thread until everything queued has run. */
  synchronize(): void {
    this.runNow('synchronising a stream', (native, stream) => native.synchronizeStream(stream));
  }

  /**
   * Records what `body` queues on this stream instead of running it. `body` must not wait for the device or allocate.
   *
   * @throws whatever body throws; the stream is usable afterwards
   */
  capture(body: () => void): Graph {
    if (this.#capturing) throw new InvalidArgumentError('This Stream is already capturing.');
    this.flush();
    // Allocated now if it is going to be: nothing may be allocated while capturing.
    if (this.device.cublasLtWorkspaceBytes > 0) this.cublasLtWorkspace();
    return this.#capture(body);
  }

  /** Queues all of a captured stretch of work. */
  launch(graph: Graph): void {
    if (graph.device !== this.device) throw new InvalidArgumentError('The graph was captured on another Device.');
    this.runNow('launching a graph', (native, stream) => native.launchGraph(graph.handle, stream));
  }

  /** Waits for what is queued and frees the stream. */
  [Symbol.dispose](): void {
    const free = this.#free;
    if (free !== undefined) this.settle();
    this.#free = undefined;
    this.#replay?.[Symbol.dispose]();
    this.#cublasLtWorkspace?.[Symbol.dispose]();
    free?.();
  }

  /** Queues what is held back; nothing is without {@link StreamOptions.replay}. */
  flush(): void {
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      this.#failure = undefined;
      throw failure;
    }
    this.#replay?.flush();
  }

  /** @internal {@link flush} before memory goes away: what it throws is thrown when the stream is used next. */
  settle(): void {
    try {
      this.flush();
    } catch (error) {
      this.#failure = error;
    }
  }

  /** @internal Queues something, now or when it is due, and throws when that failed. Every call has to queue work and nothing else. */
  run(what: string, queue: (native: Native, stream: Address) => Status): void {
    if (this.#replay === undefined || this.#capturing) {
      this.runNow(what, queue);
      return;
    }
    this.#live();
    this.#replay.defer(what, (native) => queue(native, this.#handle));
  }

  /** @internal Queues something after what is held back and throws when that failed. */
  runNow(what: string, queue: (native: Native, stream: Address) => Status): void {
    this.#live();
    if (!this.#capturing) this.flush();
    this.device.check(what, queue(this.device.native, this.#handle));
  }

  /** @internal Scratch memory of this stream for cuBLASLt. */
  cublasLtWorkspace(): Address {
    this.#cublasLtWorkspace ??= this.device.array('u8', this.device.cublasLtWorkspaceBytes);
    return this.#cublasLtWorkspace.address;
  }

  #live(): void {
    if (this.#free === undefined) throw new DisposedError('This Stream was disposed of.');
  }

  #capture(body: () => void): Graph {
    this.device.check('beginning a capture', this.device.native.beginCapture(this.#handle));
    this.#capturing = true;
    const end = () => {
      this.#capturing = false;
      return this.device.native.endCapture(this.#handle);
    };
    try {
      body();
    } catch (error) {
      const { status, value } = end();
      if (status === SUCCESS) this.device.release(this.device.native.destroyGraph(value));
      throw error;
    }
    const handle = this.device.value('capturing a graph', end());
    const { native } = this.device;
    const graph = new Graph(this.device, handle, () => {
      this.device.disown(graph);
      this.device.release(native.destroyGraph(handle));
    });
    this.device.adopt(graph);
    return graph;
  }

  #checkCopy(to: DeviceArray | PinnedArray, from: DeviceArray | PinnedArray): void {
    if (to.dtype !== from.dtype) {
      throw new InvalidArgumentError(`A copy does not convert: to is ${to.dtype}, from ${from.dtype}.`);
    }
    if (to.device !== this.device || from.device !== this.device) {
      throw new InvalidArgumentError('Both arrays of a copy must belong to the Device of the stream.');
    }
  }
}
