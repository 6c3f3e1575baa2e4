/** The body of an error in OpenAI's shape. */
export interface ApiErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

/** An error with everything OpenAI's error shape needs. Thrown in a handler, it becomes the response. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  /** HTTP status. */
  readonly status: number;
  /** OpenAI's class of error: `invalid_request_error`, `server_error`, ... */
  readonly type: string;
  /** The request field at fault, as `messages[0].content`. */
  readonly param: string | null;
  readonly code: string;

  constructor(
    status: number,
    message: string,
    details: { code: string; type?: string; param?: string | null; cause?: unknown },
  ) {
    super(message, { cause: details.cause });
    this.status = status;
    this.type = details.type ?? (status < 500 ? 'invalid_request_error' : 'server_error');
    this.param = details.param ?? null;
    this.code = details.code;
  }

  toBody(): ApiErrorBody {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.code } };
  }
}
