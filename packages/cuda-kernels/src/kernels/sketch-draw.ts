import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import type { Stream } from '../stream.js';
import { checkArray, checkFinite, checkInteger, checkOptional, checkWorkspace } from '../validate.js';
import { checkSketch, type SketchSizes, sketchLengths } from './sketch-sizes.js';

const UINT32 = 2 ** 32 - 1;
/** Weight of the uniform part, by which no probability is small where the estimate errs. */
const DEFAULT_FLOOR = 0.02;

/** Sizes of {@link sketchDraw} that its workspace depends on. */
export interface SketchDrawSizes extends SketchSizes {
  /** A multiple of kvHeads; consecutive query heads share a KV head. */
  queryHeads: number;
}

function checkDraw(sizes: SketchDrawSizes) {
  const sketch = checkSketch(sizes);
  const queryHeads = checkInteger('queryHeads', sizes.queryHeads, 1, 65535);
  if (queryHeads % sketch.kvHeads !== 0) {
    throw new InvalidArgumentError(`queryHeads (${queryHeads}) must be a multiple of kvHeads (${sketch.kvHeads}).`);
  }
  return { ...sketch, queryHeads, group: queryHeads / sketch.kvHeads };
}

/** Bytes of the workspace that {@link sketchDraw} needs. */
export function sketchDrawWorkspace(stream: Stream, sizes: SketchDrawSizes): number {
  const { dim, kvHeads, group, capacity } = checkDraw(sizes);
  return stream.device.native.sketchDrawWorkspace(dim, kvHeads, group, capacity);
}

/**
 * Draws keys for every query head of one layer and step, each with probability pi = min(1, tau (e^s + floor mean e^s)), s being the
 * score that the sketch estimates and tau such that `budget` keys are expected: estimates, threshold and draws without leaving the
 * device. A sum over all keys is estimated without bias by the sum over the drawn ones, each divided by its pi.
 *
 * The same seed, layer and step give the same draws.
 *
 * @param args.ids [queryHeads, room] i32, ascending
 * @param args.minusLog [queryHeads, room] f32: -log pi of each
 * @param args.counts [queryHeads] i32: keys drawn; where that exceeds `room`, the last were not stored and the sample is not to be used
 * @param args.q [queryHeads, dim] f32, rotated (RoPE)
 * @param args.centres [kvHeads, dim] f32, those that the keys were encoded with; optional
 * @param args.keys the first `keys` of each KV head take part, at least 1
 * @param args.budget expected number of keys
 * @param args.floor default 0.02
 * @param args.scale default 1 / sqrt(dim)
 * @param args.step position of the query token
 * @param args.workspace {@link sketchDrawWorkspace} bytes, not shared with work on other streams
 */
export function sketchDraw(
  stream: Stream,
  args: SketchDrawSizes & {
    ids: DeviceArray<'i32'>;
    minusLog: DeviceArray<'f32'>;
    counts: DeviceArray<'i32'>;
    codes: DeviceArray<'i32'>;
    factors: DeviceArray<'u16'>;
    flips: DeviceArray<'i32'>;
    q: DeviceArray<'f32'>;
    centres?: DeviceArray<'f32'>;
    workspace?: DeviceArray<'u8'>;
    keys: number;
    room: number;
    budget: number;
    floor?: number;
    scale?: number;
    layer: number;
    step: number;
    seed?: number;
  },
): void {
  const { dim, bits, kvHeads, queryHeads, group, capacity } = checkDraw(args);
  const keys = checkInteger('keys', args.keys, 1, capacity);
  const room = checkInteger('room', args.room, 0);
  const budget = checkFinite('budget', args.budget);
  if (budget < 0) throw new InvalidArgumentError(`budget must be at least 0, not ${budget}.`);
  const floor = checkFinite('floor', args.floor ?? DEFAULT_FLOOR);
  if (floor <= 0)
    throw new InvalidArgumentError(
      `floor must be above 0, not ${floor}: keys that the sketch underrates would never be drawn.`,
    );
  const scale = checkFinite('scale', args.scale ?? 1 / Math.sqrt(dim));
  const layer = checkInteger('layer', args.layer, 0, UINT32);
  const step = checkInteger('step', args.step, 0, UINT32);
  const seed = checkInteger('seed', args.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
  const lengths = sketchLengths(args);
  const ids = checkArray(stream, 'ids', args.ids, 'i32', queryHeads * room);
  const minusLog = checkArray(stream, 'minusLog', args.minusLog, 'f32', queryHeads * room);
  const counts = checkArray(stream, 'counts', args.counts, 'i32', queryHeads);
  const codes = checkArray(stream, 'codes', args.codes, 'i32', lengths.codes);
  const factors = checkArray(stream, 'factors', args.factors, 'u16', lengths.factors);
  const flips = checkArray(stream, 'flips', args.flips, 'i32', lengths.flips);
  const q = checkArray(stream, 'q', args.q, 'f32', queryHeads * dim);
  const centres = checkOptional(stream, 'centres', args.centres, 'f32', kvHeads * dim);
  const workspace = checkWorkspace(
    stream,
    args.workspace,
    stream.device.native.sketchDrawWorkspace(dim, kvHeads, group, capacity),
  );
  stream.run('sketchDraw', (native, queue) =>
    native.sketchDraw(
      queue,
      ids,
      minusLog,
      counts,
      workspace,
      codes,
      factors,
      q,
      centres,
      flips,
      dim,
      bits,
      kvHeads,
      group,
      capacity,
      keys,
      room,
      budget,
      floor,
      scale,
      layer,
      step,
      seed,
    ),
  );
}
