"""Wrap ONNX Runtime GenAI (optional extra `onnx`), an engine that decodes in this process.

Token ids go in and come out, so the engine needs no tokenizer.

The peer reads the engine's counters after each token. So it knows the drafted and accepted tokens of each round, in order. The
first round starts behind the last token of the prompt, and gives the first token too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdbench.decoding.base import Finished, Request
from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Trace
from sdbench.peers.base import Growing
from sdbench.peers.generation import float32_module, weights_key
from sdbench.peers.in_process import InProcess, exported
from sdbench.sampling import Sampling
from sdbench.stopping import Stop

PACKAGE = "onnxruntime-genai"
_LAST = "genai_config.json"


class OnnxRuntime(InProcess):
    """Decode with ONNX Runtime GenAI. ngram: the engine matches the last `ngram` - 1 tokens. See `InProcess`."""

    package, module, extra, least_ngram = PACKAGE, "onnxruntime_genai", "onnx", 2

    longest = 16
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _engine: Any = None
    _ends: list[int] | None = None

    @property
    def title(self) -> str:
        return "ONNX Runtime GenAI"

    def open(self, rows: int, slots: int) -> None:
        """Export the weights, unless the cache holds them."""
        if self._folder is not None:
            return
        kept = [_exported(model) for model in self.models]
        self._folder = tempfile.TemporaryDirectory(prefix="sdbench-onnx-")
        place = Path(self._folder.name)
        for role, source in zip(("target", "draft"), kept, strict=False):
            # The engine takes no path outside its folder.
            shutil.copytree(source, place / role, copy_function=_linked)

    def close(self) -> None:
        self._engine = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _loaded(self, ends: list[int]) -> Any:
        """Return the engine. ends: the ids that end a sequence; the engine ends there by itself, so it must know these alone."""
        og: Any = importlib.import_module("onnxruntime_genai")
        if self._engine is None or ends != self._ends:
            assert self._folder is not None
            place = Path(self._folder.name)
            configs = {file.parent.name: json.loads(file.read_text()) for file in place.glob("*/genai_config.json")}
            for role, config in configs.items():
                threads = torch.get_num_threads()
                config["model"]["decoder"]["filename"] = f"{role}/model.onnx"
                config["model"]["decoder"]["session_options"] = {
                    "provider_options": [], "intra_op_num_threads": threads, "inter_op_num_threads": 1,
                }  # fmt: skip
            main = configs["target"]
            if "draft" in configs:
                main["model"]["draft"] = configs["draft"]["model"]["decoder"]
            # There is no switch for it: without ends, the last id of the vocabulary must stand for one.
            main["model"]["eos_token_id"] = ends or main["model"]["vocab_size"] - 1
            (place / "genai_config.json").write_text(json.dumps(main))
            self._engine, self._ends = og.Model(str(place)), ends
        return self._engine

    def _decode(
        self, group: list[Request], sampling: Sampling, stop: Stop, max_new_tokens: int, seed: int, trace: Trace
    ) -> list[Finished]:
        og: Any = importlib.import_module("onnxruntime_genai")
        (request,) = group
        self.open(1, 0)
        engine = self._loaded(sorted(getattr(stop, "eos", ())))
        growing = Growing(request, stop.start(), max_new_tokens)
        given = og.GeneratorParams(engine)
        given.set_search_options(do_sample=False, max_length=len(request.tokens) + max_new_tokens)
        if self.ngram is not None:
            given.set_speculative_options(max_draft_tokens=self.draft_length, ngram_size=self.ngram)
        elif self.draft_length is not None:
            given.set_speculative_options(max_draft_tokens=self.draft_length)
        generator = og.Generator(engine, given)
        generator.append_tokens(np.array(request.tokens, np.int32))
        rounds: list[tuple[int, int]] = []  # drafted and accepted tokens up to the end of each round
        while not growing.done:
            if generator.is_done():
                # No RunError: this arm alone is void, and the others go on.
                raise ValueError(
                    f"the target wrote token {(growing.finished.tokens or [None])[-1]} in the answer to {request.name}, which "
                    f"{self.title} takes for an end, because it has no switch for none; leave the arm out with ignore_eos=true"
                )
            generator.generate_next_token()
            growing.push([int(generator.get_next_tokens()[0])])
            if self.draft_length is not None:
                counts = generator.get_speculative_stats()
                found = counts["draft_tokens_proposed"], counts["draft_tokens_accepted"]
                if counts["rounds"] + counts["standard_fallback_steps"] > len(rounds):  # the latter drafted nothing
                    rounds.append(found)
                elif rounds:
                    rounds[-1] = found
        del generator
        if self.draft_length is not None:
            drafted = np.diff([0, *(count for count, _ in rounds)]).tolist()
            growing.pieces = [kept + 1 for kept in np.diff([0, *(count for _, count in rounds)]).tolist()]
            return [growing.recorded(0, self.edge, trace, drafted)]
        return [growing.recorded(0, self.edge, trace)]


def _linked(source: str, target: str) -> str:
    """Link a file, or copy it where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _exported(model: LanguageModel) -> Path:
    """Return the folder of a model's weights in the engine's format. It is made once. Errors: InputError."""
    module = float32_module("ONNX Runtime GenAI", model)

    def write(made: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            module.save_pretrained(work)
            _stand_in_tokenizer().save_pretrained(work)  # the exporter asks for one; ids alone are used
            command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
            done = subprocess.run(
                [*command, "-i", work, "-o", str(made), "-p", "fp32", "-e", "cpu", "-c", str(Path(work) / "cache")],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode or not (made / _LAST).is_file():
            reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise InputError(f"ONNX Runtime GenAI cannot export {model.name} ({type(module).__name__}): {reason}")

    return exported("onnx", weights_key(module, importlib.metadata.version(PACKAGE)), _LAST, write)


def _stand_in_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), eos_token="a", pad_token="a"
    )
