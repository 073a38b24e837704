// One voice's part of the page: thought, answer, figures, at full or at reading speed; knows nothing about models or votes.

export class Pane {
  static perSecond = Infinity; // tokens shown in a second

  constructor(template) {
    this.root = template.content.firstElementChild.cloneNode(true);
    const find = (selector) => this.root.querySelector(selector);
    Object.assign(this, { title: find("h3"), figures: find(".figures"), toggle: find(".toggle"),
      thought: find(".thought"), answer: find(".answer"), notes: find(".note"), who: find(".who") });
    this.toggle.addEventListener("click", () => this.open(this.thought.hidden));
    this.open(true);
  }

  open(yes) {
    this.thought.hidden = !yes;
    this.toggle.setAttribute("aria-expanded", yes);
    this.toggle.textContent = yes ? "Hide thinking" : "Show thinking";
  }

  begin(name, masked, about = "") {
    Object.assign(this, { masked, waiting: [], ended: false });
    this.name(name, "", about);
    for (const part of [this.thought, this.answer, this.figures, this.notes]) part.textContent = "";
    this.toggle.hidden = true;
  }

  name(name, letter, about) {
    this.root.dataset.voice = name;
    this.title.textContent = letter ? `${letter}: ${name}` : name;
    this.who.textContent = about;
  }

  /** Takes the reply so far; at reading speed it waits its turn. */
  hear(said) {
    this.root.setAttribute("aria-busy", "true");
    this.waiting.push(said);
    if (Pane.perSecond === Infinity) this.flush();
    else this.timer ??= setInterval(() => this.next(), 1000 / Pane.perSecond);
  }

  next() {
    if (this.waiting.length) this.show(this.waiting.shift());
    else if (this.ended) this.settle();
  }

  flush() {
    if (this.waiting.length) this.show(this.waiting.at(-1));
    this.waiting = [];
  }

  /** Takes the whole reply; resolves when all of it is shown. At once if `hurry`. */
  end(said, hurry) {
    this.waiting.push(said);
    this.ended = true;
    return new Promise((resolve) => {
      this.settle = () => {
        clearInterval(this.timer);
        this.timer = null;
        this.flush();
        this.root.removeAttribute("aria-busy");
        resolve();
      };
      if (hurry || !this.timer) this.settle();
    });
  }

  note(text) { this.notes.textContent = text; }

  show(said) {
    this.answer.textContent = this.masked ? "…" : said.answer;
    if (this.masked) return;
    this.toggle.hidden = !said.thought;
    this.thought.replaceChildren(...said.thought.split("\n").filter(Boolean).map(thoughtLine));
    const rate = said.seconds > 0 ? ` · ${Math.round((said.tokens - 1) / said.seconds)} tokens/s` : "";
    this.figures.textContent = said.tokens ? `${said.tokens} tokens${rate}` : "";
  }

  /** Shows a blind answer, still without name, thought and figures. */
  reveal(said) { this.answer.textContent = said.answer; }

  unmask(name, said, letter, about) {
    this.masked = false;
    this.name(name, letter, about);
    this.show(said);
  }
}

/** A line of the inner debate; the persona's name, where there is one, stands apart. */
function thoughtLine(line) {
  const made = document.createElement("p");
  const [, persona, words] = line.match(/^([A-Z][a-z]+(?: [A-Z][a-z]+)?): (.*)$/) ?? [null, "", line];
  if (persona) {
    const name = document.createElement("b");
    name.textContent = persona;
    made.append(name, " ");
  }
  made.append(words);
  return made;
}
