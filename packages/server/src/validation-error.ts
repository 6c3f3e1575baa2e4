import type { FastifySchemaValidationError } from 'fastify';
import { ApiError } from './api-error.js';

/** What ajv adds to an error under `verbose`. */
interface VerboseError extends FastifySchemaValidationError {
  data?: unknown;
  parentSchema?: { description?: string };
}

const CODES: Record<string, string> = {
  required: 'missing_required_parameter',
  type: 'invalid_type',
  additionalProperties: 'unknown_parameter',
};

/** The 400 for a body that breaks its schema: which field, what it was, what it may be. */
export function validationError(errors: FastifySchemaValidationError[]): ApiError {
  // A union reports each of its branches and then itself, last: the field's own description says it best.
  const error = errors[errors.length - 1] as VerboseError;
  const path = paramName(error.instancePath);
  const code = CODES[error.keyword] ?? 'invalid_value';
  if (error.keyword === 'required') {
    const param = join(path, String(error.params.missingProperty));
    return new ApiError(400, `Missing required parameter: '${param}'.`, { code, param });
  }
  if (error.keyword === 'additionalProperties') {
    const param = join(path, String(error.params.additionalProperty));
    return new ApiError(400, `Unknown parameter: '${param}'.`, { code, param });
  }
  const expected = error.parentSchema?.description;
  const rule = expected === undefined ? rulesText(error) : `must be ${expected}`;
  const subject = path === '' ? 'The request body' : `'${path}'`;
  return new ApiError(400, `Invalid value for ${subject}: ${rule}; got ${preview(error.data)}.`, {
    code,
    param: path || null,
  });
}

function rulesText(error: VerboseError): string {
  if (error.keyword !== 'type') return error.message ?? 'is not valid';
  const types = [error.params.type].flat().filter((type) => type !== 'null');
  return `must be of type ${types.join(' or ')}`;
}

/** `/messages/0/content` as `messages[0].content`. */
function paramName(instancePath: string): string {
  let name = '';
  for (const part of instancePath.split('/').slice(1)) {
    name = /^\d+$/.test(part) ? `${name}[${part}]` : join(name, part);
  }
  return name;
}

function join(path: string, key: string): string {
  return path === '' ? key : `${path}.${key}`;
}

function preview(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}
