import { isAbsolute } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { AttentionPolicyModule } from './attention-policy.js';
import { InvalidRequestError } from './errors.js';

/**
 * Imports the modules of custom attention policies.
 *
 * @param specifiers Absolute paths or URLs by name.
 * @throws InvalidRequestError for a module that is not found, fails to load, or exports no function by default.
 */
export async function loadPolicies(
  specifiers: Readonly<Record<string, string>>,
): Promise<Map<string, AttentionPolicyModule>> {
  const loaded = new Map<string, AttentionPolicyModule>();
  for (const [name, specifier] of Object.entries(specifiers)) {
    loaded.set(name, await loadPolicy(name, specifier));
  }
  return loaded;
}

async function loadPolicy(name: string, specifier: string): Promise<AttentionPolicyModule> {
  const option = `policies.${name}`;
  if (typeof specifier !== 'string' || (!isAbsolute(specifier) && !URL.canParse(specifier))) {
    throw new InvalidRequestError(
      `${option} must be an absolute path or a URL, such as import.meta.resolve('./my-policy.js'), not ${JSON.stringify(specifier)}`,
      option,
    );
  }
  const url = isAbsolute(specifier) ? pathToFileURL(specifier).href : specifier;
  let module: { default?: unknown };
  try {
    module = await import(url);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new InvalidRequestError(`${option}: ${specifier} cannot be imported: ${reason}`, option, { cause: error });
  }
  if (typeof module.default !== 'function') {
    throw new InvalidRequestError(
      `${option}: ${specifier} has no default export that makes a policy (AttentionPolicyModule)`,
      option,
    );
  }
  return module.default as AttentionPolicyModule;
}
