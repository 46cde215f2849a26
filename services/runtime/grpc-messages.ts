import type { CompatServiceDefinition } from 'nice-grpc';

/**
 * The same service, but the messages that the named methods send are encoded as they are. By default
 * each is first copied, field by field, to fill in what may be missing; a batch of 500 orders pays for
 * that as much as for its encoding. For senders that build their messages whole.
 */
export function encodeWhole<Definition extends CompatServiceDefinition>(
  definition: Definition,
  methods: readonly string[],
): Definition {
  const whole = definition as unknown as TsProtoDefinition;
  const changed = Object.entries(whole.methods).map(([name, method]) => {
    if (!methods.includes(name)) return [name, method] as const;
    const requestType = { ...method.requestType, fromPartial: undefined };
    const responseType = { ...method.responseType, fromPartial: undefined };
    return [name, { ...method, requestType, responseType }] as const;
  });
  return { ...whole, methods: Object.fromEntries(changed) } as unknown as Definition;
}

interface TsProtoDefinition {
  readonly methods: Readonly<Record<string, { requestType: object; responseType: object }>>;
}
