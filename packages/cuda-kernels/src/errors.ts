/** What went wrong, for programs. */
export type CudaKernelsErrorCode =
  | 'UNAVAILABLE'
  | 'INVALID_ARGUMENT'
  | 'OUT_OF_MEMORY'
  | 'DEVICE_LOST'
  | 'CUDA_ERROR'
  | 'DISPOSED';

/** Base of all errors thrown by this package; {@link code} says which kind. */
export class CudaKernelsError extends Error {
  readonly code: CudaKernelsErrorCode;

  constructor(code: CudaKernelsErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** There is no usable CUDA device, or the package was built without CUDA. The message says which, and what to do. */
export class UnavailableError extends CudaKernelsError {
  constructor(message: string, options?: ErrorOptions) {
    super('UNAVAILABLE', message, options);
  }
}

/** An argument out of range, an array of the wrong type, too short, misaligned, or of another device. Nothing was queued. */
export class InvalidArgumentError extends CudaKernelsError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_ARGUMENT', message, options);
  }
}

/** Device or pinned memory could not be had. Nothing has changed: the device and everything on it stay usable. */
export class OutOfMemoryError extends CudaKernelsError {
  /** Bytes asked for. */
  readonly requested: number;

  constructor(message: string, requested: number, options?: ErrorOptions) {
    super('OUT_OF_MEMORY', message, options);
    this.requested = requested;
  }
}

/** A CUDA call failed. */
export class CudaError extends CudaKernelsError {
  /** The runtime's number, `cudaError_t`. */
  readonly status: number;
  /** The runtime's name for it, for example `cudaErrorInvalidValue`. */
  readonly statusName: string;

  constructor(message: string, status: number, statusName: string, code: 'CUDA_ERROR' | 'DEVICE_LOST' = 'CUDA_ERROR') {
    super(code, message);
    this.status = status;
    this.statusName = statusName;
  }
}

/** The device failed in a way that loses everything on it: all further calls of this process to it fail too. Host memory is unharmed. */
export class DeviceLostError extends CudaError {
  constructor(message: string, status: number, statusName: string) {
    super(message, status, statusName, 'DEVICE_LOST');
  }
}

/** The object was disposed of before the call. */
export class DisposedError extends CudaKernelsError {
  constructor(message: string, options?: ErrorOptions) {
    super('DISPOSED', message, options);
  }
}
