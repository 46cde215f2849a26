import type { FastifyInstance } from 'fastify';
import { type KnobPanel, knobTable } from '../knobs.ts';
import type { WebhookQueue } from '../webhook-queue.ts';

/** The knobs, what each does, and how many webhooks wait. */
export function addKnobRoutes(
  app: FastifyInstance,
  { knobs, webhooks, onChange }: KnobRoutesOptions,
): void {
  app.get('/knobs', async () => knobs.now);

  app.put('/knobs', async ({ body }) => {
    const now = knobs.set(body);
    onChange();
    return now;
  });

  app.get('/knobs/help', async () =>
    Object.fromEntries(
      Object.entries(knobTable).map(([name, { usual, about, rule }]) => [
        name,
        { usual, about, rule },
      ]),
    ),
  );

  app.get('/webhooks', async () => ({ waiting: webhooks.count() }));
}

export interface KnobRoutesOptions {
  readonly knobs: KnobPanel;
  readonly webhooks: WebhookQueue;
  readonly onChange: () => void;
}
