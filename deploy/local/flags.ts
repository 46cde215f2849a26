import { type ParseArgsConfig, parseArgs } from 'node:util';
import { Failure, messageOf } from './failure.ts';

/** The flags of this process. One that is not known is a Failure followed by the help. */
export function readFlags<T extends NonNullable<ParseArgsConfig['options']>>(
  options: T,
  help: string,
) {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    throw new Failure(`${messageOf(error)}.`, help.trimEnd().split('\n'), error);
  }
}
