import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import type { Stream } from '../stream.js';
import { checkArray, checkFinite, checkInteger, checkWorkspace } from '../validate.js';
import { checkBudget, type SketchBudget } from './sketch-budget.js';
import { checkSketch, checkStore, MAX_SKETCH_KEYS, type SketchSizes, type SketchStore } from './sketch-sizes.js';

const UINT32 = 2 ** 32 - 1;
/** Weight of the uniform part, by which no probability is small where the estimate errs. */
const DEFAULT_FLOOR = 0.02;

/** Sizes of {@link sketchDraw} that its workspace depends on. */
export interface SketchDrawSizes extends SketchSizes {
  /** A multiple of kvHeads; consecutive query heads share a KV head. */
  queryHeads: number;
  /** Default 1. */
  sequences?: number;
  /** Bound on every sequence's keys; the grid is made for it, so that keys may change between replays of a graph. */
  maxKeys: number;
}

function checkDraw(sizes: SketchDrawSizes) {
  const sketch = checkSketch(sizes);
  const queryHeads = checkInteger('queryHeads', sizes.queryHeads, 1, 65535);
  if (queryHeads % sketch.kvHeads !== 0) {
    throw new InvalidArgumentError(`queryHeads (${queryHeads}) must be a multiple of kvHeads (${sketch.kvHeads}).`);
  }
  const sequences = checkInteger('sequences', sizes.sequences ?? 1, 0, Math.floor(65535 / queryHeads));
  const maxKeys = checkInteger('maxKeys', sizes.maxKeys, 0, MAX_SKETCH_KEYS);
  return { ...sketch, queryHeads, group: queryHeads / sketch.kvHeads, sequences, maxKeys };
}

/** Bytes of the workspace that {@link sketchDraw} needs, about 2.1 for each query head and key. */
export function sketchDrawWorkspace(stream: Stream, sizes: SketchDrawSizes): number {
  const { dim, kvHeads, group, sequences, maxKeys } = checkDraw(sizes);
  return stream.device.native.sketchDrawWorkspace(dim, kvHeads, group, sequences, maxKeys);
}

/** 32-bit words of one query head's row of samples with room for so many keys. */
export function sketchSampleWords(room: number): number {
  return 2 + 2 * checkInteger('room', room, 0, MAX_SKETCH_KEYS);
}

/** Keys drawn for one query head. */
export interface SketchSample {
  /** Keys drawn. Above `room`, the last were not stored and the sample is not to be used; -1 for a query that is not finite or longer than 2^60. */
  count: number;
  /** Estimated relative standard error of the sum of e^score over all keys. */
  error: number;
  /** Ascending. */
  ids: Uint32Array;
  /** Natural logarithm of the probability with which each was drawn. */
  logProbabilities: Float32Array;
}

/**
 * One row of samples, in host memory; nothing is copied.
 *
 * @param samples [rows, {@link sketchSampleWords}(room)], as they came from the device
 */
export function sketchSample(samples: Int32Array, room: number, row: number): SketchSample {
  const words = sketchSampleWords(room);
  checkInteger('row', row, 0, samples.length / words - 1);
  const { buffer } = samples;
  const first = samples.byteOffset + row * words * 4;
  const count = samples[row * words]!;
  const stored = Math.min(Math.max(count, 0), room);
  return {
    count,
    error: new Float32Array(buffer, first + 4, 1)[0]!,
    ids: new Uint32Array(buffer, first + 8, stored),
    logProbabilities: new Float32Array(buffer, first + 8 + 4 * room, stored),
  };
}

/**
 * Draws keys for every query head of one layer and step of many sequences, each key with a known probability that follows the softmax of
 * the scores that its sketch estimates: estimates, thresholds and draws without leaving the device. A sum over all keys is estimated
 * without bias by the sum over the drawn ones, each divided by its probability. The same keys and the same probabilities, bit for bit, as
 * the selector of `KeySketch` of `@magicpig/lsh` gives for equal options, head layer * kvHeads + kvHead, and step.
 *
 * @param args.samples [sequences, queryHeads, {@link sketchSampleWords}(room)] i32, in one piece for one transfer; {@link sketchSample} reads it
 * @param args.room ids that a row has room for; budget + 8 sqrt(budget) is enough in practice
 * @param args.q [sequences, qStride] f32: queryHeads queries of each sequence, rotated (RoPE)
 * @param args.qStride default queryHeads * dim
 * @param args.keys [sequences] i32: the first so many keys of each sequence take part, at most maxKeys
 * @param args.steps [sequences] i32 (read as unsigned): position of each query token
 * @param args.floor what is added to every weight in units of the mean weight; default 0.02
 * @param args.scale default 1 / sqrt(dim)
 * @param args.seed integer 0..2^53-1, that of the flips; default 0
 * @param args.workspace {@link sketchDrawWorkspace} bytes, not shared with work on other streams
 */
export function sketchDraw(
  stream: Stream,
  args: SketchDrawSizes &
    SketchStore & {
      samples: DeviceArray<'i32'>;
      room: number;
      q: DeviceArray<'f32'>;
      qStride?: number;
      keys: DeviceArray<'i32'>;
      steps: DeviceArray<'i32'>;
      budget: SketchBudget;
      floor?: number;
      scale?: number;
      layer: number;
      seed?: number;
      workspace?: DeviceArray<'u8'>;
    },
): void {
  const { dim, bits, kvHeads, queryHeads, group, sequences, maxKeys } = checkDraw(args);
  const room = checkInteger('room', args.room, 0, MAX_SKETCH_KEYS);
  const qStride = checkInteger('qStride', args.qStride ?? queryHeads * dim, queryHeads * dim, Number.MAX_SAFE_INTEGER);
  const budget = checkBudget(args.budget);
  const floor = checkFinite('floor', args.floor ?? DEFAULT_FLOOR);
  if (floor <= 0) {
    throw new InvalidArgumentError(
      `floor must be above 0, not ${floor}: keys that the sketch underrates would never be drawn.`,
    );
  }
  const scale = checkFinite('scale', args.scale ?? 1 / Math.sqrt(dim));
  if (scale <= 0) throw new InvalidArgumentError(`scale must be above 0, not ${scale}.`);
  const firstHead = checkInteger('layer', args.layer, 0, Math.floor(UINT32 / kvHeads) - 1) * kvHeads;
  const seed = checkInteger('seed', args.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
  const samples = checkArray(stream, 'samples', args.samples, 'i32', sequences * queryHeads * sketchSampleWords(room));
  const q = checkArray(stream, 'q', args.q, 'f32', sequences === 0 ? 0 : (sequences - 1) * qStride + queryHeads * dim);
  const keys = checkArray(stream, 'keys', args.keys, 'i32', sequences);
  const steps = checkArray(stream, 'steps', args.steps, 'i32', sequences);
  const { view, flips } = checkStore(stream, args, args, sequences, maxKeys);
  const bytes = stream.device.native.sketchDrawWorkspace(dim, kvHeads, group, sequences, maxKeys);
  const workspace = checkWorkspace(stream, args.workspace, bytes);
  if (sequences === 0) return;
  stream.run('sketchDraw', (native, queue) =>
    native.sketchDraw(
      queue,
      samples,
      workspace,
      ...view,
      q,
      flips,
      keys,
      steps,
      dim,
      bits,
      kvHeads,
      group,
      sequences,
      maxKeys,
      room,
      qStride,
      ...budget,
      floor,
      scale,
      firstHead,
      seed,
    ),
  );
}
