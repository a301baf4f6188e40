// The backend's waits on the page: one entry a question, from sent to the confirmation that a task would get back.

import { byId, clockTime, element } from './dom.js';
import { describe } from './decision.js';

/** Browsers open six connections to a host; each held wait takes one, and the others are needed to publish. */
const MAX_WAITS = 4;
/** Finished waits that stay visible. */
const MAX_FINISHED = 10;

export class Asks {
  constructor({ producer, announce }) {
    Object.assign(this, { producer, announce });
    this.list = byId('asks');
    this.waits = 0;
  }

  /** Whether one more wait may be held. */
  get isFull() {
    return this.waits >= MAX_WAITS;
  }

  get limit() {
    return MAX_WAITS;
  }

  /** Asks, and shows the wait until it ends. Never throws: what went wrong is shown in the entry. */
  async ask(body) {
    const entry = new Ask(body, {
      onStop: () => hangUp.abort(),
      onWithdraw: (callbackId) => this.producer.withdraw(callbackId),
    });
    const hangUp = new AbortController();
    this.list.prepend(entry.root);
    byId('asks-panel').hidden = false;
    this.#count(+1);
    try {
      const decision = await this.producer.notify(body, {
        signal: hangUp.signal,
        onProgress: (progress) => entry.progress(progress),
      });
      entry.decided(decision);
      const { verdict, proceed } = describe(decision);
      this.announce(`The backend got its confirmation: ${verdict}, ${proceed}`);
    } catch (error) {
      if (hangUp.signal.aborted) entry.stopped();
      else entry.failed(error.message);
    } finally {
      this.#count(-1);
      this.#trim();
    }
  }

  #count(change) {
    this.waits += change;
    byId('badge-asks').textContent = String(this.waits);
    byId('badge-asks').hidden = this.waits === 0;
  }

  #trim() {
    const finished = [...this.list.querySelectorAll(':scope > [data-state="done"]')];
    for (const old of finished.slice(MAX_FINISHED)) old.remove();
  }
}

class Ask {
  constructor(body, { onStop, onWithdraw }) {
    this.callbackId = null;
    this.state = element('p', { class: 'ask-state', role: 'status' }, `Asking ${body.user_id}…`);
    this.result = element('div', { class: 'ask-result' });
    this.stop = element('button', { type: 'button', class: 'quiet', on: { click: onStop } }, 'Stop waiting');
    this.withdraw = element('button', {
      type: 'button',
      class: 'quiet',
      disabled: true,
      on: { click: () => this.#withdraw(onWithdraw) },
    }, 'Withdraw');
    this.buttons = element('div', { class: 'row' }, this.stop, this.withdraw);
    this.user = body.user_id;
    this.options = body.options ?? [];
    this.root = element('li', { class: 'ask', data: { state: 'waiting' } },
      element('p', { class: 'ask-title' }, element('strong', {}, body.user_id), ` · ${body.task_id} · step ${body.step}`),
      element('p', { class: 'soft' }, body.step_result.message),
      this.state, this.result, this.buttons);
  }

  progress({ state, callbackId, rounds, said }) {
    this.callbackId = callbackId;
    if (callbackId) {
      this.root.dataset.callbackId = callbackId;
      this.withdraw.disabled = false;
    }
    const again = rounds > 1 ? `, asked ${rounds} times` : '';
    this.state.textContent = state === 'pending'
      ? `Waiting for ${this.user}${again}`
      : `Outcome unknown, repeating with the same ${callbackId ? 'id' : 'key'}${again}${said ? `: ${said}` : ''}`;
  }

  decided(decision) {
    const { verdict, tone, proceed, by } = describe(decision);
    this.#finish('');
    this.root.dataset.callbackId = decision.callback_id;
    this.root.dataset.status = decision.status;
    const when = typeof decision.at === 'number' ? ` · ${clockTime(decision.at)}` : '';
    this.result.append(...[
      element('p', { class: 'verdict' }, element('span', { class: `stamp ${tone}` }, verdict), ` ${[by, proceed].filter(Boolean).join(', ')}${when}`),
      decision.choice ? element('p', { class: 'ask-choice' }, 'Chose ', element('strong', {}, this.#labelOf(decision.choice))) : null,
      decision.feedback ? element('p', { class: 'ask-feedback said' }, String(decision.feedback)) : null,
      element('details', {},
        element('summary', {}, 'What the task received'),
        element('pre', { class: 'code' }, JSON.stringify(decision, null, 2))),
    ].filter(Boolean));
  }

  failed(message) {
    this.#finish(message);
    this.state.classList.add('bad');
  }

  stopped() {
    this.#finish('This page stopped waiting. The question stays open until it is answered or its deadline.');
  }

  #finish(text) {
    this.root.dataset.state = 'done';
    this.state.textContent = text;
    this.buttons.remove();
  }

  #labelOf(choice) {
    return this.options.find(({ id }) => id === choice)?.label ?? String(choice);
  }

  async #withdraw(onWithdraw) {
    this.withdraw.disabled = true;
    try {
      await onWithdraw(this.callbackId);
    } catch (error) {
      this.state.textContent = `Not withdrawn: ${error.message}`;
      this.withdraw.disabled = false;
    }
  }
}
