"""A small server that speaks what vLLM and SGLang speak, and can misbehave: `python server.py PORT KIND FAULT`.

It continues a prompt by a rule of its own (the next token is the last one plus one, modulo 90, from 2 on), a few tokens an
event, as a server does that accepts them: every verification drafts 3 and keeps 0, 1, 2, 3 in turn. FAULT: none, never
(does not come up), exits, error (answers 500), inside (an error event), dies (in the middle of an answer), cut (ends it
without [DONE]), stalls, no-ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

K = 3


class Counters:
    drafts = drafted = accepted = 0
    by_place = [0] * K


def following(token: int) -> int:
    return (token - 1) % 88 + 2


def rounds(limit: int) -> list[int]:
    """Accepted lengths until `limit` tokens are there; the prompt's own forward gives the first."""
    made, emitted = [], 1
    while emitted < limit:
        made.append(len(made) % (K + 1))
        emitted += made[-1] + 1
    return made


class Handler(BaseHTTPRequestHandler):
    kind, fault = "vllm", "none"
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer("")
        elif self.path == "/v1/models":
            self.answer(json.dumps({"object": "list", "data": [{"id": "made-up", "object": "model"}]}))
        elif self.path == "/metrics":
            self.answer(self.metrics())
        else:
            self.send_error(404)

    def metrics(self) -> str:
        labels = 'engine="0",model_name="made-up"'
        name = "vllm:spec_decode_num_"
        lines = [
            f"# HELP {name}drafts_total Number of spec decoding drafts.",
            f"{name}drafts_total{{{labels}}} {float(Counters.drafts)}",
            f"{name}draft_tokens_total{{{labels}}} {float(Counters.drafted)}",
            f"{name}accepted_tokens_total{{{labels}}} {float(Counters.accepted)}",
            *[
                f'{name}accepted_tokens_per_pos_total{{{labels},position="{place}"}} {float(count)}'
                for place, count in enumerate(Counters.by_place)
            ],
            f"{name}drafts_created{{{labels}}} 1.7e+09",
            f"vllm:num_requests_running{{{labels}}} 0.0",
        ]
        return "\n".join(lines) + "\n"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.fault == "error":
            self.answer(json.dumps({"error": {"message": "no room for this prompt", "code": 500}}), 500)
            return
        if self.path == "/v1/completions":
            assert asked["model"] == "made-up"
            assert asked["return_token_ids"]
            prompt, limit = asked["prompt"], asked["max_tokens"]
        else:
            assert self.path == "/generate"
            prompt, limit = asked["input_ids"], asked["sampling_params"]["max_new_tokens"]
        assert asked["stream"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked may hang up
            self.stream(prompt, limit)
            self.chunk(b"")

    def stream(self, prompt: list[int], limit: int) -> None:
        tokens: list[int] = []
        made = rounds(limit)
        for number, kept in enumerate([None, *made]):
            new = []
            for _ in range(1 if kept is None else min(kept + 1, limit - len(tokens))):
                new.append(following((prompt + tokens + new)[-1]))
            tokens += new
            if kept is not None:
                Counters.drafts += 1
                Counters.drafted += K
                Counters.accepted += kept
                for place in range(kept):
                    Counters.by_place[place] += 1
            if number == 2 and self.fault in ("dies", "cut", "stalls", "inside"):
                self.misbehave()
                return
            self.event(
                self.vllm(new, len(tokens) >= limit)
                if self.kind == "vllm"
                else self.sglang(tokens, limit, made[:number])
            )
        if self.kind == "vllm":
            self.event({"choices": [], "usage": {"completion_tokens": len(tokens)}})
        self.chunk(b"data: [DONE]\n\n")

    def vllm(self, new: list[int], last: bool) -> dict:
        choice = {"index": 0, "text": "x" * len(new), "token_ids": new, "finish_reason": "length" if last else None}
        if self.fault == "no-ids":
            del choice["token_ids"]
        return {"object": "text_completion", "choices": [choice]}

    def sglang(self, tokens: list[int], limit: int, made: list[int]) -> dict:
        histogram = [made.count(n) for n in range(K + 1)]
        meta = {
            "completion_tokens": len(tokens),
            "finish_reason": {"type": "length", "length": limit} if len(tokens) >= limit else None,
            "spec_verify_ct": len(made),
            "spec_draft_token_num": K * len(made),
            "spec_accept_token_num": sum(made),
            "spec_accept_histogram": histogram,
        }
        return {"text": "x" * len(tokens), "output_ids": tokens, "meta_info": meta}

    def misbehave(self) -> None:
        if self.fault == "dies":
            print("out of memory, alas", flush=True)
            os._exit(3)
        if self.fault == "inside":
            self.event({"error": {"message": "the engine is dead", "code": 500}})
        if self.fault == "stalls":
            time.sleep(60)

    def event(self, document: dict) -> None:
        self.chunk(b"data: " + json.dumps(document).encode() + b"\n\n")

    def chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()

    def answer(self, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    port, Handler.kind, Handler.fault = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if Handler.fault == "never":
        time.sleep(60)
    if Handler.fault == "exits":
        print("no such model: made-up", flush=True)
        sys.exit(7)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
