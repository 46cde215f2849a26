import { createSigner, createVerifier } from 'fast-jwt';
import { Refusal } from './refusals.ts';

/**
 * Verified tokens kept; a browser sends the same one with every request. A map of our own, because
 * fast-jwt's cache digests each token with SHA-256 to look it up, which costs 17 µs of the 20 µs it saves.
 */
const cachedTokensMax = 10_000;
/** The greatest id that fits an int64. */
const idMax = 2n ** 63n - 1n;

/** Who makes a call. */
export interface Caller {
  readonly userId: bigint;
  /** `admin` for operators; buyers have none. */
  readonly role: string | undefined;
}

export interface Tokens {
  /** Makes a token that is valid for `ttlSeconds`. */
  sign(caller: { userId: bigint; role?: string; ttlSeconds: number }): {
    token: string;
    expireTime: Date;
  };
  /** @throws Refusal UNAUTHENTICATED if the token is malformed, forged, expired or for others */
  verify(token: string): Caller;
}

/** Signs and verifies HS256 tokens with the claims sub (user id), role, iss, aud and exp. */
export function createTokens({ secret }: { secret: string }): Tokens {
  const claims = { iss: 'sluice', aud: 'sluice' } as const;
  const verify = createVerifier({
    key: secret,
    algorithms: ['HS256'],
    allowedIss: claims.iss,
    allowedAud: claims.aud,
    requiredClaims: ['sub', 'iss', 'aud', 'exp'],
    cache: false,
  });
  const verified = new Map<string, { readonly caller: Caller; readonly expireTimeMs: number }>();
  return {
    sign({ userId, role, ttlSeconds }) {
      const sign = createSigner({ key: secret, algorithm: 'HS256', expiresIn: ttlSeconds * 1_000 });
      const token = sign({ sub: String(userId), ...claims, ...(role ? { role } : {}) });
      return { token, expireTime: new Date(Date.now() + ttlSeconds * 1_000) };
    },
    verify(token) {
      const known = verified.get(token);
      if (known !== undefined && known.expireTimeMs > Date.now()) return known.caller;
      let payload: Record<string, unknown>;
      try {
        payload = verify(token) as Record<string, unknown>;
      } catch (cause) {
        const expired = (cause as { code?: unknown }).code === 'FAST_JWT_EXPIRED';
        const message = expired ? 'The token has expired; get a new one' : 'The token is not valid';
        throw new Refusal('UNAUTHENTICATED', message, { cause });
      }
      const caller = callerOf(payload);
      if (verified.size >= cachedTokensMax) verified.delete(verified.keys().next().value as string);
      verified.set(token, { caller, expireTimeMs: Number(payload.exp) * 1_000 });
      return caller;
    },
  };
}

function callerOf({ sub, role }: Record<string, unknown>): Caller {
  if (typeof sub !== 'string' || !/^[1-9]\d{0,18}$/.test(sub) || BigInt(sub) > idMax) {
    throw new Refusal('UNAUTHENTICATED', 'The token does not name a user');
  }
  return { userId: BigInt(sub), role: typeof role === 'string' ? role : undefined };
}
