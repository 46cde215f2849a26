import { Refusal } from '../runtime/refusals.ts';
import { HttpFault } from './problem.ts';

/** The routes that exist, to tell a wrong method (405) from a wrong address (404). */
export class RouteTable {
  readonly #methodsByPattern = new Map<string, Set<string>>();

  add(method: string | string[], pattern: string): void {
    const methods = this.#methodsByPattern.get(pattern) ?? new Set();
    for (const name of [method].flat()) methods.add(name);
    this.#methodsByPattern.set(pattern, methods);
  }

  /** What to answer to a request that no route took. */
  faultOf(url: string): Refusal | HttpFault {
    const path = url.split('?', 1)[0] ?? '';
    for (const [pattern, methods] of this.#methodsByPattern) {
      if (matches(pattern, path)) {
        return new HttpFault('METHOD_NOT_ALLOWED', undefined, [...methods].sort());
      }
    }
    return new Refusal('NOT_FOUND', 'There is nothing at this address');
  }
}

function matches(pattern: string, path: string): boolean {
  const parts = pattern.split('/');
  const segments = path.split('/');
  return (
    parts.length === segments.length &&
    parts.every((part, index) => {
      const segment = segments[index] ?? '';
      return part.startsWith(':') ? segment !== '' : part === segment;
    })
  );
}
