import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { ApiError } from '../api-error.ts';
import { abandonedPage, missingPage, type PageOptions, payPage } from '../pay-page.ts';
import type { Session } from '../session.ts';
import type { Sessions } from '../sessions.ts';

const pageHeaders = {
  'content-security-policy':
    "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=()',
  // The URL is what entitles to pay: it must not travel on.
  'referrer-policy': 'no-referrer',
};

const assets = [
  { name: 'pay.css', type: 'text/css; charset=utf-8' },
  { name: 'pay.js', type: 'text/javascript; charset=utf-8' },
].map(({ name, type }) => ({
  name,
  type,
  text: readFileSync(join(import.meta.dirname, '../web', name), 'utf8'),
}));

export interface PayPageOptions extends PageOptions {
  readonly sessions: Sessions;
  /** Called after a change that may have made a webhook. */
  readonly onChange: () => void;
}

/** The page where a buyer pays, works without JavaScript too: every button is a form of its own. */
export function addPayPageRoutes(app: FastifyInstance, options: PayPageOptions): void {
  const { sessions, onChange } = options;
  app.addContentTypeParser('application/x-www-form-urlencoded', (_request, payload, done) => {
    payload.resume();
    payload.once('end', () => done(null));
  });
  app.addHook('onRequest', async (_request, reply) => {
    reply.headers(pageHeaders);
  });
  for (const { name, type, text } of assets) {
    app.get(`/assets/${name}`, async (_request, reply) => reply.type(type).send(text));
  }

  app.get<WithId>('/pay/:id', async ({ params }, reply) =>
    show(reply, () => payPage(sessions.read(params.id), options)),
  );
  app.get<WithId>('/pay/:id/abandoned', async ({ params }, reply) =>
    show(reply, () => abandonedPage(sessions.read(params.id))),
  );

  const act = (
    path: string,
    change: (sessionId: string) => Session | undefined,
    then = '',
  ): void => {
    app.post<WithId>(`/pay/:id/${path}`, async (request, reply) => {
      requireSameSite(request);
      const { id } = request.params;
      try {
        change(id);
      } catch (error) {
        // Closed or gone meanwhile: the page that follows says so.
        if (!(error instanceof ApiError)) throw error;
      }
      onChange();
      return reply.redirect(`/pay/${encodeURIComponent(id)}${then}`, 303);
    });
  };
  act('pay', (id) => sessions.pay(id));
  act('fail', (id) => sessions.fail(id, 'the card was declined'));
  // Nobody tells a provider that a buyer walked away: nothing changes.
  act('abandon', () => undefined, '/abandoned');
}

interface WithId {
  Params: { id: string };
}

function show(reply: FastifyReply, render: () => string): FastifyReply {
  reply.type('text/html; charset=utf-8');
  try {
    return reply.send(render());
  } catch (error) {
    if (error instanceof ApiError) return reply.code(error.status).send(missingPage());
    throw error;
  }
}

/** Another site's form must not press our buttons; browsers say where a form comes from. */
function requireSameSite({ headers }: FastifyRequest): void {
  const site = headers['sec-fetch-site'];
  if (site === undefined || site === 'same-origin' || site === 'none') return;
  throw new ApiError(403, 'forbidden', 'this button belongs to the payment page');
}
