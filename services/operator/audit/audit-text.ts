import type { AuditResult } from './audit.ts';
import type { PromiseResult } from './tally.ts';

/** The result as a table that a person can read, with the first examples of everything that is wrong. */
export function auditText(result: AuditResult): string {
  const rows = result.promises.map((each) => [
    `${each.promise}  ${each.title}`,
    Object.entries(each.counted)
      .map(([what, count]) => `${count.toLocaleString('en')} ${what}`)
      .join(', '),
    verdictOf(each),
  ]);
  const lines = [...table([['promise', 'looked at', 'breaches'], ...rows]), ''];
  for (const each of result.promises) lines.push(...detailsOf(each));
  lines.push(conclusionOf(result));
  return `${lines.join('\n')}\n`;
}

function verdictOf({ breaches, findings, couldNotLook }: PromiseResult): string {
  const found = findings > 0 ? ` (and ${findings} for an operator)` : '';
  const partly = couldNotLook === undefined ? '' : ' (could not look)';
  return `${breaches}${found}${partly}`;
}

function detailsOf({ promise, kinds, couldNotLook }: PromiseResult): string[] {
  const lines: string[] = [];
  if (couldNotLook !== undefined) lines.push(`${promise} could not look: ${couldNotLook}`, '');
  for (const { kind, count, isFinding, examples } of kinds) {
    lines.push(`${promise} ${kind}: ${count}${isFinding ? ', for an operator' : ''}`);
    for (const { sentence } of examples) lines.push(`  ${sentence}`);
    if (count > examples.length) lines.push(`  … and ${count - examples.length} more`);
    lines.push('');
  }
  return lines;
}

function conclusionOf({ breaches, findings, seconds, looksAgain, promises }: AuditResult): string {
  const again = looksAgain > 0 ? `, ${looksAgain} looks at what was changing` : '';
  const took = `(${seconds} s${again})`;
  const forOperator = findings > 0 ? ` ${findings} for an operator to look at.` : '';
  if (breaches > 0)
    return `${breaches} ${breaches === 1 ? 'breach' : 'breaches'}.${forOperator} ${took}`;
  const blind = promises.filter(({ couldNotLook }) => couldNotLook !== undefined);
  if (blind.length > 0) {
    const names = blind.map(({ promise }) => promise).join(', ');
    return `No breach was found, but it could not look at all of ${names}.${forOperator} ${took}`;
  }
  return `Clean: no promise is broken.${forOperator} ${took}`;
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]?.map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths?.[column] ?? 0))
      .join('   ')
      .trimEnd(),
  );
}
