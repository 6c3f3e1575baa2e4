import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkWorkspace } from '../validate.js';
import { checkBits, SEGMENT_KEYS } from './hash-sizes.js';

/** Sizes of one segment of tables. */
export interface TableSizes {
  /** Keys of the segment, 1..65535. */
  keys: number;
  /** Bits of the codes, 1..16; default 10. */
  bits?: number;
  /** Tables; those of several heads may be counted together. */
  tables: number;
}

function checkTables(sizes: TableSizes) {
  return {
    keys: checkInteger('keys', sizes.keys, 1, SEGMENT_KEYS),
    bits: checkBits(sizes.bits),
    tables: checkInteger('tables', sizes.tables, 0),
  };
}

/** Bytes of the workspace that {@link tableBuild} needs: 0 up to 11 bits. */
export function tableBuildWorkspace(stream: Stream, sizes: TableSizes): number {
  const { keys, bits, tables } = checkTables(sizes);
  return stream.device.native.tableBuildWorkspace(keys, bits, tables);
}

/**
 * Sorts each table's keys by bucket, into the segment layout of `@magicpig/lsh`: bucket b of table t holds
 * ids[t][starts[t][b] .. starts[t][b + 1]), ascending.
 *
 * @param args.starts [tables, 2^bits + 1] u16
 * @param args.ids [tables, keys] u16, relative to the segment's first key
 * @param args.codes [tables, codesStride] u16, of {@link simhash} with `layout: 'tables'`
 * @param args.codesStride elements from one table's codes to the next's; default keys
 * @param args.workspace {@link tableBuildWorkspace} bytes, not shared with work on other streams
 */
export function tableBuild(
  stream: Stream,
  args: TableSizes & {
    starts: DeviceArray<'u16'>;
    ids: DeviceArray<'u16'>;
    codes: DeviceArray<'u16'>;
    codesStride?: number;
    workspace?: DeviceArray<'u8'>;
  },
): void {
  const { keys, bits, tables } = checkTables(args);
  const codesStride = checkInteger('codesStride', args.codesStride ?? keys, keys, Number.MAX_SAFE_INTEGER);
  const starts = checkArray(stream, 'starts', args.starts, 'u16', tables * (2 ** bits + 1));
  const ids = checkArray(stream, 'ids', args.ids, 'u16', tables * keys);
  const codes = checkArray(stream, 'codes', args.codes, 'u16', tables === 0 ? 0 : (tables - 1) * codesStride + keys);
  const bytes = stream.device.native.tableBuildWorkspace(keys, bits, tables);
  const workspace = checkWorkspace(stream, args.workspace, bytes);
  stream.run('tableBuild', (native, queue) =>
    native.tableBuild(queue, starts, ids, workspace, codes, keys, bits, tables, codesStride),
  );
}
