import { describe, expect, it } from 'vitest';
import { availability, Device, isAvailable, listDevices, UnavailableError } from '../src/index.js';
import { loadAddon, type Native } from '../src/native.js';

describe('availability', () => {
  it('says whether there is a device, and if not, why', () => {
    const found = availability();
    expect(isAvailable()).toBe(found.available);
    if (found.available) {
      expect(listDevices()).toHaveLength(found.devices);
    } else {
      expect(found.reason).toMatch(/device|nvcc|CUDA/);
      expect(found.reason.endsWith('.')).toBe(true);
      expect(listDevices()).toEqual([]);
      expect(() => new Device()).toThrow(UnavailableError);
      expect(() => new Device()).toThrow(found.reason);
    }
  });

  it('refuses a device that is not there', () => {
    expect(() => new Device({ index: 1000 })).toThrow(UnavailableError);
    expect(() => new Device({ index: 1.5 })).toThrow(/index must be an integer/);
  });

  it('refuses a device that is too old', () => {
    const value = { name: 'An old GPU', major: 7, minor: 5, totalMemory: 2 ** 34 };
    const native = { deviceProperties: () => ({ status: 0, value }) } as unknown as Native;
    expect(() => new Device({}, native)).toThrow(UnavailableError);
    expect(() => new Device({}, native)).toThrow(
      'An old GPU has compute capability 7.5; the kernels need 8.0 or later.',
    );
  });

  it('an addon that cannot be found is a reason, with what to do, not an exception', () => {
    const loaded = loadAddon('no_such_addon');
    expect(loaded).toMatchObject({ reason: expect.stringContaining('npm run build') });
  });

  it('the addon of a machine without nvcc loads, and says what is missing', () => {
    const loaded = loadAddon('magicpig_cuda_kernels_idle');
    expect(loaded).toMatchObject({ reason: expect.stringMatching(/nvcc was not found.*CUDA toolkit 12\.8 or later/) });
  });
});
