// The live page: takes a request, shows both voices side by side, counts votes; knows nothing about WebAssembly.
// Text from people and from the model reaches the page through textContent only.

import { loadVoices, speak, version } from "./engine.js";
import { Pane } from "./pane.js";
import { renderPrompt, splitReply } from "./prompt.js";
import { Tally } from "./tally.js";

const $ = (id) => document.getElementById(id);
const config = JSON.parse($("config").textContent);
const NAMES = ["baseline", "friction"];
const known = new Set(config.words);
const panes = [new Pane($("pane")), new Pane($("pane"))];
const tally = new Tally($("counts"), $("share"), $("bar"));
let voices = null, round = null, chosen = null, turn = 0;

const say = (text) => { $("status").textContent = text; };
const problem = (text) => { $("problem").textContent = text; };
const blind = () => document.querySelector("[name=mode]:checked").value === "blind";

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

// ---- presets

/** Shows the mode: to watch, pairs under what they call for; blind, nothing that tells a request from its twin, here or below. */
function showMode() {
  const lists = blind() ? shuffledLists() : behaviourLists();
  $("legend").hidden = blind();
  $("kinds").setAttribute("aria-label", blind() ? "Lists of requests" : "What the request calls for");
  $("kinds").replaceChildren(...lists.map(({ label, pairs }, at) => {
    const button = element("button", label, "tab");
    button.type = "button";
    button.addEventListener("click", () => showList(at, pairs));
    return button;
  }));
  showList(0, lists[0].pairs);
  tally.show(blind());
  if (!round) seat(NAMES, blind());
}

function behaviourLists() {
  return Object.entries(config.behaviours).map(([name, label]) => ({ label, pairs: config.presets
    .filter((preset) => preset.behaviour === name)
    .map((preset) => [presetButton(preset, "friction", "Calls for friction: "), presetButton(preset, "twin", "Looks alike: ")]) }));
}

/** Lists of four, all behaviours mixed: two requests that call for friction and two twins, in any order. */
function shuffledLists() {
  const [calls, twins] = ["friction", "twin"].map((side) => shuffled(config.presets.map((preset) => [presetButton(preset, side)])));
  const lists = [];
  while (calls.length) {
    lists.push({ label: `List ${lists.length + 1}`, pairs: shuffled([...calls.splice(0, 2), ...twins.splice(0, 2)]) });
  }
  return lists;
}

function shuffled(items) {
  return items.map((item) => [Math.random(), item]).sort(([a], [b]) => a - b).map(([, item]) => item);
}

function showList(at, pairs) {
  [...$("kinds").children].forEach((button, place) => button.setAttribute("aria-pressed", place === at));
  $("pairs").replaceChildren(...pairs.map((buttons) => {
    const pair = element("div", "", "pair");
    pair.append(...buttons);
    return pair;
  }));
}

/** A button that asks; without a `label` it does not say on which side of its pair it stands. */
function presetButton(preset, side, label = "") {
  const { history, user } = preset[side];
  const button = element("button", "", label ? `preset ${side}` : "preset");
  button.type = "button";
  if (label) button.append(element("span", label, "unseen"));
  if (history.length) button.append(element("span", `after “${history.at(-1).content}”`, "said"));
  button.append(user);
  button.addEventListener("click", () => {
    $("request").value = user;
    chosen = { history, user, sort: side };
    ask();
  });
  return button;
}

// ---- one round

function request() {
  const user = $("request").value.trim();
  return chosen && chosen.user === user ? chosen : { history: [], user, sort: "own" };
}

function refusal({ user, history }) {
  if (!voices) return "The voices are still waking up. Try again in a moment.";
  if (!user) return "There is no request yet. Choose one above, or write one.";
  const bytes = new TextEncoder().encode(renderPrompt(config, history, user)).length;
  return bytes > config.maxBytes ? `This request takes ${bytes} bytes and the model reads ${config.maxBytes}. Shorten it.` : "";
}

async function ask() {
  const asked = request(), refused = refusal(asked);
  problem(refused);
  if (refused) return;
  const waited = ++turn;
  await stop();
  if (waited !== turn) return; // a later request came while this one waited
  const order = blind() && coin() ? [...NAMES].reverse() : NAMES;
  const mine = { ...asked, order, blind: blind(), said: {}, stopper: new AbortController(), vote: null };
  round = mine;
  begin(mine);
  mine.done = Promise.all(order.map((name, at) => listen(mine, name, panes[at])));
  await mine.done;
  if (round === mine) finish(mine);
}

const coin = () => crypto.getRandomValues(new Uint8Array(1))[0] & 1;

function begin(mine) {
  $("asked").textContent = `“${mine.user}”`;
  $("before").replaceChildren(...mine.history.map((turn) =>
    element("p", `${turn.role === "user" ? "Person" : "Model"}: ${turn.content}`, "before")));
  showUnknown(mine);
  seat(mine.order, mine.blind);
  $("vote").hidden = true;
  $("verdict").textContent = "";
  $("send").disabled = true;
  $("stop").disabled = false;
  say("Both voices are answering.");
  const { top } = $("answers").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) $("answers").scrollIntoView();
}

function seat(order, masked) {
  order.forEach((name, at) => panes[at].begin(masked ? ["Voice A", "Voice B"][at] : name, masked, masked ? "" : config.about[name]));
}

async function listen(mine, name, pane) {
  const prompt = renderPrompt(config, mine.history, mine.user);
  try {
    const spoken = await speak(voices[name], prompt, {
      maxTokens: config.maxTokens, signal: mine.stopper.signal,
      heard: (text, tokens) => {
        mine.said[name] = { text, tokens, ...splitReply(text) };
        pane.hear(mine.said[name]);
      },
    });
    mine.said[name] = { ...spoken, ...splitReply(spoken.text) };
    pane.note(spoken.reason === "length" ? `Cut off after ${spoken.tokens} tokens.` : "");
  } catch (error) {
    const stopped = error.name === "AbortError" || mine.stopper.signal.aborted;
    mine.said[name] ??= { text: "", tokens: 0, thought: "", answer: "", open: true };
    mine.said[name].failed = true;
    pane.note(stopped ? "Stopped." : `This voice failed: ${error.message} Reload the page.`);
  }
  await pane.end(mine.said[name], mine.stopper.signal.aborted);
}

function finish(mine) {
  // blind, no answer shows before both voices have finished: the quick one would give itself away
  if (mine.blind) panes.forEach((pane, at) => pane.reveal(mine.said[mine.order[at]]));
  $("send").disabled = false;
  $("stop").disabled = true;
  const whole = NAMES.every((name) => !mine.said[name].failed);
  $("vote").hidden = !(mine.blind && whole);
  if (mine.blind && !whole) unmask(mine);
  if (!mine.blind && whole) remember(mine);
  say(!whole ? "Stopped before the end." : mine.blind ? "Both answers are here. Which serves the person better?" : "Both voices have answered.");
}

async function stop() {
  if (!round?.done) return;
  round.stopper.abort();
  panes.forEach((pane) => pane.settle?.());
  await round.done;
}

// ---- votes

function vote(choice) {
  if (!round?.blind || round.vote) return;
  const name = { first: round.order[0], second: round.order[1] }[choice] ?? choice;
  round.vote = name;
  tally.add(round.sort, name);
  $("vote").hidden = true;
  const chose = { tie: "You called it a tie.", neither: "You found both bad." }[name] ?? `You chose the ${name} voice.`;
  $("verdict").textContent = `${chose} Friction was ${"AB"[round.order.indexOf("friction")]}.`;
  unmask(round);
  remember(round);
  say($("verdict").textContent);
}

function unmask(mine) {
  mine.order.forEach((name, at) => panes[at].unmask(name, mine.said[name], mine.blind ? "AB"[at] : "", config.about[name]));
}

function remember(mine) {
  const entry = document.createElement("li");
  entry.append(element("p", [...mine.history.map((turn) => turn.content), mine.user].join(" — "), "q"));
  for (const name of NAMES) {
    const line = element("p", "", `a ${name}`);
    line.append(element("b", name, `mark ${name}`), element("span", " " + (mine.said[name].answer || "(no answer)")));
    entry.append(line);
  }
  if (mine.vote) entry.append(element("p", `Vote: ${config.choices[mine.vote] ?? mine.vote}`, "hint"));
  $("log").append(entry);
  $("nothing").hidden = true;
  transcript.push({ history: mine.history, user: mine.user, sort: mine.sort, blind: mine.blind, order: mine.order, vote: mine.vote,
    said: Object.fromEntries(NAMES.map((name) => [name, mine.said[name].text])) });
  $("save").disabled = $("clear").disabled = false;
}

// ---- transcript

const transcript = [];

function save() {
  const rows = transcript.map((row) => JSON.stringify(row) + "\n").join("");
  const link = element("a", "");
  link.href = `data:application/jsonl;charset=utf-8,${encodeURIComponent(rows)}`;
  link.download = "push-back-transcript.jsonl";
  link.click();
}

function clear() {
  transcript.length = 0;
  tally.clear();
  $("log").replaceChildren();
  $("nothing").hidden = false;
  $("save").disabled = $("clear").disabled = true;
  say("Votes and transcript are cleared.");
}

/** Names the words that the model has never read; it may still play along with them. */
function showUnknown({ user, sort }) {
  const words = sort === "own" ? (user.toLowerCase().match(/\p{L}+/gu) ?? []) : [];
  const strange = [...new Set(words)].filter((word) => !known.has(word));
  $("unknown").textContent = strange.length ? `Not in its language: ${strange.slice(0, 6).join(", ")}. Expect nonsense, or a doubt.` : "";
}

// ---- wiring

function theme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  $("theme").textContent = dark ? "Dark" : "Light";
}

function wire() {
  $("voices").append(...panes.map((pane) => pane.root));
  $("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("request").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
  $("stop").addEventListener("click", stop);
  $("save").addEventListener("click", save);
  $("clear").addEventListener("click", clear);
  $("theme").addEventListener("click", theme);
  $("pace").addEventListener("change", (event) => { Pane.perSecond = event.target.checked ? config.readingPace : Infinity; });
  $("vote").addEventListener("click", (event) => { if (event.target.dataset.choice) vote(event.target.dataset.choice); });
  if (matchMedia("(prefers-color-scheme: dark)").matches) $("theme").textContent = "Light";
  if (location.hash === "#stage") document.body.classList.add("stage");
  for (const radio of document.querySelectorAll("[name=mode]")) radio.addEventListener("change", showMode);
  addEventListener("pageshow", showMode); // a browser that comes back to the page restores the mode, and tells nobody
  showMode();
}

async function start() {
  wire();
  try {
    voices = await loadVoices(NAMES, config.load);
  } catch (error) {
    $("asked").textContent = "The voices did not wake up.";
    say("The voices did not wake up.");
    return problem(error.message ?? String(error));
  }
  const ready = performance.now();
  document.documentElement.dataset.ready = Math.round(ready);
  $("build").append(` llama.cpp ${version()}. Ready ${(ready / 1000).toFixed(1)} s after opening, on this device.`);
  $("asked").textContent = "Choose a request, or write one.";
  $("send").disabled = false;
  say("Both voices are ready.");
}

globalThis.pushback = { renderPrompt: (history, user) => renderPrompt(config, history, user), speak: (name, prompt) =>
  speak(voices[name], prompt, { maxTokens: config.maxTokens, heard() {} }) };
start();
