// Counts blind votes and shows them, with the interval of the share; knows nothing about what was voted on.

import { wilson } from "./prompt.js";

const SORTS = { friction: "Calls for friction", twin: "Looks alike, and is fine", own: "Your own" };
const COLUMNS = ["friction", "baseline", "tie", "neither"];

export class Tally {
  constructor(body, share, bar) {
    Object.assign(this, { body, share, bar });
    this.clear();
  }

  clear() {
    this.counts = Object.fromEntries(Object.keys(SORTS).map((sort) => [sort, Object.fromEntries(COLUMNS.map((name) => [name, 0]))]));
    this.show();
  }

  add(sort, name) {
    this.counts[sort][name] += 1;
    this.show();
  }

  sum(name) { return Object.values(this.counts).reduce((sum, row) => sum + row[name], 0); }

  /** `whole` puts all requests in one row: split, each vote would say of which sort its request was. */
  show(whole = this.whole) {
    this.whole = whole;
    this.body.replaceChildren(...(whole ? [row("All requests", COLUMNS.map((name) => this.sum(name)))]
      : Object.entries(SORTS).map(([sort, label]) => row(label, COLUMNS.map((name) => this.counts[sort][name])))));
    const won = this.sum("friction"), n = won + this.sum("baseline"), rest = this.sum("tie") + this.sum("neither");
    this.bar.hidden = !n;
    if (n) this.bar.style.setProperty("--won", `${(100 * won) / n}%`);
    this.share.textContent = n ? sentence(won, n) + (rest ? ` ${rest} more chose neither.` : "")
      : rest ? `No vote has chosen a voice yet; ${rest} chose neither.` : "No votes yet. Choose “Vote blind”, then a request.";
  }
}

function sentence(won, n) {
  const [low, high] = wilson(won, n).map((end) => Math.round(100 * end));
  return `Friction was preferred in ${won} of ${n} ${n === 1 ? "vote" : "votes"} that chose a voice: ${Math.round((100 * won) / n)} % [${low}–${high}].`;
}

function row(label, numbers) {
  const made = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = label;
  made.append(head, ...numbers.map((number) => {
    const cell = document.createElement("td");
    cell.textContent = number;
    return cell;
  }));
  return made;
}
