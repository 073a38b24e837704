"""A real OpenAI-compatible HTTP server on loopback that fails on demand; used by the tests of the engine."""

import json
import random
import time
from collections import Counter

from loopback import LoopbackServer, QuietHandler

MODEL, KEY = "loopback-1b", "sk-loopback-secret"
BAD_TEXT = {
    "empty": ("", "stop"),
    "cut_off": ("The plan looks fine until somebody", "length"),
    "filtered": ("The plan looks fine as long as", "content_filter"),
    "died": ("The plan looks fine unless nobody", "error"),
    "unclosed_think": ("<think>The user wants something and I wonder", "stop"),
    "wrong_language": ("Ich glaube, dass dieser Plan nicht gut ist, weil niemand die Sicherung geprüft hat.", "stop"),
    "wrong_script": ("我认为这个计划不好，因为没有人检查过备份，我们应该再等一天。", "stop"),
    "error": ("Error: upstream model overloaded", "stop"),
    "malformed": ("Nobody has looked at [[the backup since March, and that worries me.", "stop"),
    "control_tokens": ("The backup is old <|im_end|> and nobody has looked at it.", "stop"),
}
RETRY_AFTER = {"rate_limited": "0.05", "out_of_quota": "0.05", "come_back_later": "7200"}
BAD_CALL = ("timeout", "rate_limited", "server_error", "half_json", "dropped")


class Loopback(LoopbackServer):
    """`fault_rate` of the calls fail, each in one of `faults`, drawn by a seed; `served` counts what was sent."""

    def __init__(self, *, faults: tuple[str, ...] = (), fault_rate: float = 0.0, delay: float = 0.0, hang: float = 1.0):
        super().__init__(_Handler)
        self.faults, self.fault_rate, self.delay, self.hang = faults, fault_rate, delay, hang
        self.served: Counter[str] = Counter()
        self.window = 100_000  # tokens of a prompt; more are cut off
        self.draw, self.base_url = random.Random(7), f"{self.url}/v1"

    def next_fault(self) -> str:
        with self.lock:
            fault = self.draw.choice(self.faults) if self.draw.random() < self.fault_rate else "ok"
            self.served[fault] += 1
            return fault


class _Handler(QuietHandler):
    server: Loopback

    def do_POST(self) -> None:
        body = json.loads(self.body() or b"{}")
        if self.headers["Authorization"] == "Bearer sk-wrong":
            self.send(401, {"error": {"message": "Incorrect API key provided: sk-wrong"}})
        elif self.command == "GET":
            self.send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        elif body["model"] != MODEL:
            self.send(404, {"error": {"message": f"model {body['model']!r} not found"}})
        else:
            self.server.calls.append(body)
            self._answer(self.server.next_fault(), body)

    do_GET = do_POST

    def _answer(self, fault: str, body: dict) -> None:
        half = json.dumps(_completion("It would have been a fine reply.", "stop")).encode()[:100]
        if fault == "timeout":
            time.sleep(self.server.hang)
        if fault in RETRY_AFTER:
            said = {"message": "slow down", "code": "insufficient_quota" if fault == "out_of_quota" else None}
            self.send(429, {"error": said}, {"Retry-After": RETRY_AFTER[fault]})
        elif fault == "server_error":
            self.send(500, {"error": {"message": "out of memory"}})
        elif fault == "half_json":
            self.send(200, half)
        elif fault == "dropped":
            self.send(200, half, {"Content-Length": "200"})
            self.close_connection = True
        elif fault == "trickle":
            self.stream([bytes([byte]) for byte in half], pause=self.server.hang / len(half))
        else:
            time.sleep(self.server.delay)
            count = 2 * sum(len(message["content"].split()) for message in body["messages"])
            self.send(200, _completion(*BAD_TEXT.get(fault, (good_text(body), "stop")), min(self.server.window, count)))


def good_text(body: dict) -> str:
    """A reply that depends on what was asked and on the seed, in the form the engine asks for."""
    system = body["messages"][0]["content"]
    draw = random.Random(json.dumps(body["messages"]) + str(body["seed"]))
    number, thing = draw.randint(100, 99999), draw.choice(["backup", "invoice", "kettle", "ladder", "spreadsheet"])
    if "Part: Request" in system:
        return f"Should I move the {thing} number {number} to the shed before it rains?"
    if "Part: Answer" in system:
        return f"Leave the {thing} where it is: line {number} of the list says nobody has looked at it since the move."
    if "Behaviour: comply" in system:
        return f"They want the {thing} with the number {number}, and nothing stands against that."
    return f"The {thing} in row {number} looks settled, but [[nobody has opened the {thing}]] since the move."


def _completion(text: str, finish: str, prompt: int = 50) -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": prompt, "completion_tokens": len(text.split()), "total_tokens": prompt + len(text.split())}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage}
