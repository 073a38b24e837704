// Loads both voices into llama.cpp (WebAssembly) and streams their tokens; knows nothing about the page.

import { LoggerWithoutDebug, Wllama } from "@wllama/wllama/esm/index.js";

// Two things that a page opened as a file needs. A module worker may not start from a blob, so the type that wllama asks for is
// dropped. And a worker may not fetch a blob, so it is handed WebAssembly that is compiled already: once, for both voices.
const PRELUDE = `
const compiled = new Promise((resolve) => addEventListener("message", function first(event) {
  if (!event.data?.compiled) return;
  event.stopImmediatePropagation();
  removeEventListener("message", first);
  resolve(event.data.compiled);
}));
WebAssembly.instantiateStreaming = async (response, imports) => {
  const module = await compiled;
  return { module, instance: await WebAssembly.instantiate(module, imports) };
};
`;
let compiled; // a promise of the WebAssembly.Module
const blobs = new Map();
const createObjectURL = URL.createObjectURL.bind(URL);
URL.createObjectURL = (blob) => {
  const url = createObjectURL(blob);
  blobs.set(url, blob);
  return url;
};
const NativeWorker = window.Worker;
window.Worker = class extends NativeWorker {
  constructor(url) {
    super(createObjectURL(new Blob([PRELUDE, blobs.get(url)], { type: "text/javascript" })));
    compiled.then((module) => this.postMessage({ compiled: module }));
  }
};

// The page renders its prompts itself; studying the real template would cost llama.cpp a third of the loading time.
const PLAIN_TEMPLATE = "{{ messages[0].content }}";

const quiet = { ...LoggerWithoutDebug, log() {}, warn() {} };

/** The bytes of one embedded payload (base64). The element is dropped, to save memory. */
function payload(id) {
  const element = document.getElementById(id);
  element.remove();
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(element.textContent);
  return Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
}

/** Unpacks and compiles at the same time. */
function compile(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return WebAssembly.compileStreaming(new Response(stream, { headers: { "Content-Type": "application/wasm" } }));
}

/** Throws in plain words where this browser cannot run llama.cpp. */
function checkBrowser() {
  const wants = "Open this page in Chrome or Edge 133, Firefox 134, or later.";
  if (!window.WebAssembly) throw new Error(`This browser runs no WebAssembly. ${wants}`);
  if (!window.DecompressionStream) throw new Error(`This browser cannot unpack gzip. ${wants}`);
  try {
    new WebAssembly.Memory({ address: "i64", initial: 1n });
  } catch {
    throw new Error(`This browser has no 64-bit WebAssembly memory. ${wants}`);
  }
}

async function loadVoice(model, options) {
  const wllama = new Wllama({ default: "data:application/wasm," }, { suppressNativeLog: true, logger: quiet });
  wllama.setCompat(null); // the fallback build would come from a CDN
  await wllama.loadModel([model], {
    n_threads: 1, n_gpu_layers: 0, n_parallel: 1, n_ctx: 1024, chat_template: PLAIN_TEMPLATE, ...options,
  });
  return wllama;
}

/** Loads every voice, each in a worker of its own, so that both can stream at the same time. */
export async function loadVoices(names, options) {
  checkBrowser();
  compiled = compile(payload("wasm"));
  const loaded = await Promise.all(names.map((name) => loadVoice(new Blob([payload(`model-${name}`)]), options)));
  return Object.fromEntries(names.map((name, at) => [name, loaded[at]]));
}

/** Streams one greedy reply; `heard(text, tokens)` after every token. Returns how it ended. */
export async function speak(wllama, prompt, { maxTokens, signal, heard }) {
  const bos = wllama.mustAddBosToken() ? prompt.indexOf(">") + 1 : 0; // llama.cpp adds it itself
  let text = "", tokens = 0, first = 0, reason = null;
  const started = performance.now();
  await wllama.createCompletion({
    prompt: prompt.slice(bos), temperature: 0, max_tokens: maxTokens, cache_prompt: false, stream: true, abortSignal: signal,
    onData(chunk) {
      const choice = chunk.choices?.[0];
      if (!choice) return;
      reason = choice.finish_reason ?? reason;
      if (!choice.text) return;
      first ||= performance.now();
      text += choice.text;
      heard(text, ++tokens);
    },
  });
  return { text, tokens, reason, wait: first - started, seconds: (performance.now() - first) / 1000 };
}

export const version = () => Wllama.getLibllamaVersion();
