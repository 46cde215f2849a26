import { Command, CommanderError } from 'commander';
import { ConfigError, type Variables } from '../runtime/env.ts';
import { auditCommand } from './audit/audit-command.ts';
import type { OperatorConfig } from './config.ts';
import { readConfig } from './config.ts';
import { exitCode, sentenceOf } from './could-not-look.ts';
import { dlqCommand } from './dlq/dlq-command.ts';
import { explainCommand } from './explain/explain-command.ts';
import { pruneCommand } from './prune/prune-command.ts';

/** Where a command writes; standard output carries nothing but what was asked for. */
export interface Surroundings {
  readonly variables: Variables;
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream & { isTTY?: boolean };
}

/** What each command is given. */
export interface CommandContext extends Surroundings {
  /** Read when a command runs, so that --help needs no settings. @throws ConfigError */
  readConfig(): Readonly<OperatorConfig>;
  /** Sets what the process exits with. */
  exitWith(code: number): void;
}

const settingsHelp = `
Settings are the services' own variables, and the defaults are those of npm start: SLUICE_MYSQL_URLS, SLUICE_WAREHOUSE_URL,
SLUICE_DATABASE_PREFIX, SLUICE_ORDER_SHARDS, SLUICE_KAFKA_BROKERS, SLUICE_KAFKA_TOPIC_PREFIX, SLUICE_ORDER_ADDRESS,
SLUICE_STOCK_ADDRESS, SLUICE_PAYMENT_ADDRESS. Operators' methods need a token with the role admin: SLUICE_TOKEN, or one is made with
SLUICE_TOKEN_SECRET, or, for services on this machine and unless SLUICE_DEMO=0, with the demo secret.

Exit codes: 0 clean or done, 1 a promise is broken (audit), 2 it could not look or do its work (a server is away, a bad argument).
`;

/** Runs one command and answers the exit code; every failure is a sentence on standard error. */
export async function runCommandLine(
  args: readonly string[],
  surroundings: Surroundings,
): Promise<number> {
  const { variables, stdout, stderr } = surroundings;
  let code: number = exitCode.clean;
  const context: CommandContext = {
    ...surroundings,
    readConfig: () => readConfig(variables),
    exitWith: (chosen) => {
      code = chosen;
    },
  };
  const program = new Command('./sluice')
    .description('The command line of Sluice for operators.')
    .addHelpText('after', settingsHelp)
    .showHelpAfterError('("./sluice --help" tells more)')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void stdout.write(text),
      writeErr: (text) => void stderr.write(text),
      getOutHelpWidth: () => 120,
      getErrHelpWidth: () => 120,
    });
  for (const command of [auditCommand, explainCommand, pruneCommand, dlqCommand].map((make) =>
    make(context),
  )) {
    inherit(command, program);
    program.addCommand(command);
  }
  try {
    await program.parseAsync([...args], { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.exitCode === 0 ? exitCode.clean : exitCode.couldNotLook;
    }
    const sentence = sentenceOf(error);
    const hint = error instanceof ConfigError ? 'Settings that cannot be used:\n' : '';
    const text = sentence ?? (error instanceof Error ? error.stack : String(error));
    stderr.write(`${hint}${text}\n`);
    return exitCode.couldNotLook;
  }
}

/** Output and exits of commands and their subcommands are the program's. */
function inherit(command: Command, from: Command): void {
  command.copyInheritedSettings(from);
  for (const subcommand of command.commands) inherit(subcommand, command);
}
