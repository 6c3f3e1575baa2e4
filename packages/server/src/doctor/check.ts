/** What one part of the machine or the installation looks like. */
export interface Check {
  name: string;
  /** `info`: a fact. `warning`: works, but not as well as it could. `error`: broken. */
  status: 'ok' | 'info' | 'warning' | 'error';
  /** One line for people. */
  message: string;
  /** The facts behind the message, for programs. */
  details?: Record<string, unknown>;
}

/** Runs a check that may throw; what it throws is what is broken. */
export async function guarded(name: string, check: () => Promise<Check> | Check): Promise<Check> {
  try {
    return await check();
  } catch (error) {
    return { name, status: 'error', message: error instanceof Error ? error.message : String(error) };
  }
}
