export { ApiError, type ApiErrorBody } from './api-error.js';
export { createServer, type ServerOptions } from './create-server.js';
export type { SamplingDefaults } from './generate-options.js';
export type { Report, Usage } from './report.js';
