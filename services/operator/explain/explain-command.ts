import { Command } from 'commander';
import { createLog } from '../../runtime/log.ts';
import { orderId } from '../arguments.ts';
import type { CommandContext } from '../command-line.ts';
import { openStores } from '../stores.ts';
import { type Explanation, explain } from './explain.ts';

interface Options {
  readonly json?: boolean;
  readonly kafka: boolean;
}

const help = `
Tells the order's row, lines and history, its holds, outbox rows, events in Kafka, payments, refunds and webhooks, what statistics,
warehouse and mails know of it, and what the running services answer about it and about the gates of its SKUs. A fence (an id
that was given up) and an id that never existed are answers too, with exit code 0.
`;

/** `./sluice explain` */
export function explainCommand(context: CommandContext): Command {
  return new Command('explain')
    .description('Tells the whole life of an order from all stores, in time order.')
    .argument('<orderId>', 'the order', orderId)
    .option('--json', 'write the result as JSON and nothing else to standard output')
    .option('--no-kafka', 'leave out the events in Kafka, which take some seconds to read')
    .addHelpText('after', help)
    .action(async (id: bigint, options: Options) => {
      const config = context.readConfig();
      const log = createLog('operator', 'silent');
      const stores = await openStores(config);
      try {
        const withKafka = options.kafka;
        const explanation = await explain({ config, stores, orderId: id, withKafka, log });
        const text = options.json
          ? `${JSON.stringify(explanation, null, 2)}\n`
          : explanationText(explanation);
        context.stdout.write(text);
      } finally {
        await stores.close();
      }
    });
}

function explanationText({ summary, id, lines: own, life, services, gaps }: Explanation): string {
  const lines = [
    summary,
    `The id was made ${id.time} by worker ${id.worker} (sequence ${id.sequence}) in slot ${id.slot}: ${id.place}.`,
  ];
  for (const { skuId, quantity, unitPriceMinor } of own) {
    lines.push(`  ${quantity} × SKU ${skuId} at ${unitPriceMinor} (minor units)`);
  }
  if (life.length > 0) lines.push('');
  for (const { time, store, what } of life) {
    lines.push(`${(time ?? '').padEnd(24)}  ${store.padEnd(10)}  ${what}`);
  }
  lines.push('');
  for (const { service, answer } of services) {
    lines.push(`${'now'.padEnd(24)}  ${service.padEnd(10)}  ${answer}`);
  }
  if (gaps.length > 0) lines.push('', ...gaps);
  return `${lines.join('\n')}\n`;
}
