import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { test } from 'node:test';
import { bearer, type ProblemBody, tokenSecret, useEdge } from './support.ts';

const edge = useEdge();

type Claims = Record<string, unknown>;
const nowSeconds = Math.floor(Date.now() / 1_000);
const claims = { sub: '1', iss: 'sluice', aud: 'sluice', iat: nowSeconds, exp: nowSeconds + 3_600 };

/** Made by hand, because the library under test would not make most of these. */
function jwt(payload: Claims, { alg = 'HS256', secret = tokenSecret } = {}): string {
  const part = (value: Claims): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg, typ: 'JWT' })}.${part(payload)}`;
  if (alg === 'none') return `${signed}.`;
  const hash = alg === 'HS512' ? 'sha512' : 'sha256';
  return `${signed}.${createHmac(hash, secret).update(signed).digest('base64url')}`;
}

function without(name: keyof typeof claims): Claims {
  const { [name]: _, ...rest } = claims;
  return rest;
}

const tampered = (): string => {
  const [head, , signature] = jwt(claims).split('.');
  const other = Buffer.from(JSON.stringify({ ...claims, sub: '2' })).toString('base64url');
  return `${head}.${other}.${signature}`;
};

const refused: [name: string, header: string | undefined][] = [
  ['no token', undefined],
  ['an empty header', ''],
  ['another scheme', 'Basic dXNlcjpwdw=='],
  ['a scheme without a token', 'Bearer '],
  ['a token that is no JWT', 'Bearer nonsense'],
  ['three parts of nonsense', 'Bearer a.b.c'],
  ['two tokens', `Bearer ${jwt(claims)} ${jwt(claims)}`],
  ['a token of 5,000 characters', `Bearer ${'a'.repeat(5_000)}`],
  ['an expired token', `Bearer ${jwt({ ...claims, exp: nowSeconds - 1 })}`],
  ['a token without an end', `Bearer ${jwt(without('exp'))}`],
  ['a token signed with another key', `Bearer ${jwt(claims, { secret: 'x'.repeat(40) })}`],
  ['the algorithm none', `Bearer ${jwt(claims, { alg: 'none' })}`],
  ['another algorithm with the right key', `Bearer ${jwt(claims, { alg: 'HS512' })}`],
  ['a changed payload', `Bearer ${tampered()}`],
  ['another issuer', `Bearer ${jwt({ ...claims, iss: 'elsewhere' })}`],
  ['another audience', `Bearer ${jwt({ ...claims, aud: 'elsewhere' })}`],
  ['no subject', `Bearer ${jwt(without('sub'))}`],
  ['a subject that is no id', `Bearer ${jwt({ ...claims, sub: 'alice' })}`],
  ['a negative subject', `Bearer ${jwt({ ...claims, sub: '-1' })}`],
  ['a subject beyond 63 bits', `Bearer ${jwt({ ...claims, sub: '9223372036854775808' })}`],
];

for (const [name, authorization] of refused) {
  test(`${name} is 401, before the body is looked at`, async () => {
    const response = await fetch(`${edge.url}/v1/orders`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(authorization === undefined ? {} : { authorization }),
      },
      body: 'not JSON',
    });
    assert.equal(response.status, 401);
    assert.match(response.headers.get('www-authenticate') ?? '', /^Bearer/);
    assert.equal(response.headers.get('content-type'), 'application/problem+json');
    assert.equal(((await response.json()) as ProblemBody).reason, 'UNAUTHENTICATED');
  });
}

test('the token that the refused ones vary is taken', async () => {
  const headers = { authorization: `Bearer ${jwt(claims)}` };
  assert.equal((await fetch(`${edge.url}/v1/orders`, { headers })).status, 200);
});

const adminRoutes = [
  ['POST', '/v1/admin/skus'],
  ['PATCH', '/v1/admin/skus/7'],
  ['POST', '/v1/admin/skus/7/adjust'],
  ['POST', '/v1/admin/skus/7/rebuild'],
  ['GET', '/v1/admin/skus/7/layers'],
] as const;

for (const [method, path] of adminRoutes) {
  test(`${method} ${path} needs the role admin`, async () => {
    const stranger = await fetch(`${edge.url}${path}`, { method });
    assert.equal(stranger.status, 401);
    for (const role of [undefined, 'buyer', 'Admin']) {
      const response = await fetch(`${edge.url}${path}`, { method, headers: bearer(1n, role) });
      assert.equal(response.status, 403);
      assert.equal(((await response.json()) as ProblemBody).reason, 'FORBIDDEN');
    }
  });
}
