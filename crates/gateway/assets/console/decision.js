// How a callback ended, in words. Pure. The one rule here: silence is never consent.
// `proceed` is a yes only when it is exactly `true`; null is "no decision", and absent (devices are told the status
// only) says nothing at all.

const VERDICTS = {
  confirmed: 'Confirmed',
  declined: 'Declined',
  cancelled: 'Cancelled',
  timed_out: 'Timed out',
};

/**
 * Describes a decision: the verdict in one word, the tone to show it in, what the waiting task was told,
 * and who decided.
 */
export function describe(decision) {
  const verdict = VERDICTS[decision?.status] ?? 'Ended';
  return {
    verdict,
    tone: tone(decision),
    proceed: proceedWord(decision?.proceed),
    by: byline(decision),
  };
}

/** A decision in one sentence, for screen readers and the message list. */
export function sentence(decision) {
  const { verdict, proceed, by } = describe(decision);
  const parts = [by ? `${verdict} ${by}` : verdict, proceed].filter(Boolean);
  if (decision?.choice !== null && decision?.choice !== undefined) parts.push(`choice: ${decision.choice}`);
  if (decision?.feedback) parts.push(`“${decision.feedback}”`);
  return parts.join(' · ');
}

function tone(decision) {
  return { confirmed: 'good', declined: 'bad', timed_out: 'warn' }[decision?.status] ?? 'quiet';
}

function proceedWord(proceed) {
  if (proceed === true) return 'the task goes on';
  if (proceed === false) return 'the task does not go on';
  return proceed === null ? 'no decision' : '';
}

function byline(decision) {
  if (decision?.status === 'timed_out') return 'without an answer';
  if (typeof decision?.by === 'string' && decision.by !== '') return `by ${decision.by}`;
  return '';
}
