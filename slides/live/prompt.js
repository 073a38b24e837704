// The model family's chat template for text turns, and how a reply splits; knows nothing about pages or models.

const OPEN = "<think>", CLOSE = "</think>";

/** The prompt as chat_template.jinja renders it with add_generation_prompt, in NFC, which llama.cpp does not apply itself. */
export function renderPrompt(config, history, user) {
  const { bos, eos, user: userTag, assistant } = config.tokens;
  const turns = [...history, { role: "user", content: user }].map(({ role, content }) =>
    role === "user" ? userTag + content : assistant + content.split(CLOSE).at(-1) + eos);
  return (bos + config.system + turns.join("") + assistant + OPEN + "\n").normalize("NFC");
}

/** Splits generated text, which starts inside the thought; `open` while the closing tag has not come. */
export function splitReply(text) {
  const at = text.indexOf(CLOSE);
  if (at >= 0) return { thought: text.slice(0, at).trim(), answer: text.slice(at + CLOSE.length).trim(), open: false };
  let end = text.length;
  for (let n = Math.min(CLOSE.length - 1, end); n > 0; n--) if (CLOSE.startsWith(text.slice(end - n))) { end -= n; break; }
  return { thought: text.slice(0, end).trim(), answer: "", open: true };
}

/** Wilson's score interval at 95 % (JASA 22, 1927), as pushback_lib/core/stats.py computes it. */
export function wilson(hits, n) {
  const z = 1.959963984540054, share = hits / n, z2 = z * z;
  const middle = (share + z2 / (2 * n)) / (1 + z2 / n);
  const half = (z / (1 + z2 / n)) * Math.sqrt((share * (1 - share)) / n + z2 / (4 * n * n));
  return [Math.max(0, Math.min(share, middle - half)), Math.min(1, Math.max(share, middle + half))];
}
