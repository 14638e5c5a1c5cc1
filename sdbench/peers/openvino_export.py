"""Write a model of transformers in OpenVINO's format: a graph with float32 weights that keeps its keys and values in itself.

OpenVINO's own converter reads the traced module. Each pair of past and present keys or values then becomes a state of the graph, as
OpenVINO GenAI expects it. Nothing is rounded.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdbench.models.quiet import quiet

FILE = "openvino_model.xml"
FORMAT = "1"  # of the written files; a changed graph gets another one
_INPUTS = ("input_ids", "attention_mask", "position_ids")


def export(module: Any, place: Path) -> None:
    """Write the graph, its weights and the config into a folder.

    module: a causal model in float32 on the CPU, whose layers all have full attention. Errors: those of the converter, for a module
    that it cannot convert.
    """
    import openvino as ov
    from openvino._offline_transformations import apply_make_stateful_transformation, apply_moc_transformations
    from openvino.frontend import FrontEndManager  # pyright: ignore
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of each branch on a size
        plain = _plain(module)
        traced = TorchScriptPythonDecoder(_Step(plain), example_input=_example(plain))
    graph: Any = frontend.convert(frontend.load(traced))
    layers = range((len(graph.inputs) - len(_INPUTS)) // 2)
    kept = [f"{layer}.{half}" for layer in layers for half in ("key", "value")]
    past, present = ([f"{time}.{name}" for name in kept] for time in ("past_key_values", "present"))
    for end, name in zip(graph.inputs, [*_INPUTS, *past], strict=True):
        end.get_tensor().set_names({name})
    for end, name in zip(graph.outputs, ["logits", *present], strict=True):
        end.get_tensor().set_names({name})
    apply_moc_transformations(graph, False)
    _take_beams(graph, past)
    apply_make_stateful_transformation(graph, dict(zip(past, present, strict=True)))
    _start_empty(graph)
    place.mkdir(parents=True)
    ov.save_model(graph, place / FILE, compress_to_fp16=False)
    # The engine asks for an end and a tokenizer. Each request names its own ends, and holds ids.
    ends = {"eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0}
    (place / "config.json").write_text(json.dumps({**json.loads(module.config.to_json_string()), **ends}))
    for graph, name in zip(_tokenizer(), ("tokenizer", "detokenizer"), strict=True):
        ov.save_model(graph, place / f"openvino_{name}.xml")


def _plain(module: Any) -> Any:
    """Return a copy of a module without what was changed in its layers, such as blocked weights. It shares every weight."""
    plain = type(module)(module.config)
    plain.load_state_dict(module.state_dict(), assign=True)
    plain.tie_weights()
    return plain.eval()


class _Step(nn.Module):
    """A forward whose inputs and outputs are tensors alone."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, ...]:
        """Return the logits, and the keys and values of each layer."""
        new, total = input_ids.shape[1], attention_mask.shape[1]
        places = torch.arange(total)
        seen = places[None, :] <= places[total - new :, None]
        seen = seen[None, None] & attention_mask.bool()[:, None, None, :]
        cache: Any = _Past(past)
        answer = self.module(
            input_ids=input_ids,
            attention_mask=torch.where(seen, 0.0, torch.finfo(torch.float32).min),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return answer.logits, *(tensor for layer in cache.layers for tensor in layer)


class _Past:
    """A cache that appends; the tracer can follow it."""

    is_compileable = False

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self.layers = list(layers)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        before = self.layers[layer]
        self.layers[layer] = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        return self.layers[layer]

    def get_seq_length(self, layer: int = 0) -> int:
        return self.layers[layer][0].shape[2]


def _take_beams(graph: Any, past: list[str]) -> None:
    """Let an input order the rows of keys and values. The engine asks for it, though one row has one order."""
    from openvino import opset13 as ops

    beams: Any = ops.parameter([-1], dtype=np.int32, name="beam_idx")
    beams.output(0).get_tensor().add_names({"beam_idx"})
    graph.add_parameters([beams])
    for name in past:
        given = graph.input(name)
        readers = given.get_target_inputs()
        ordered = ops.gather(given, beams, ops.constant(0, dtype=np.int64))
        for reader in readers:
            reader.replace_source_output(ordered.output(0))
    graph.validate_nodes_and_infer_types()


def _start_empty(graph: Any) -> None:
    """Let each state begin with the batch of the ids and without tokens."""
    from openvino import opset13 as ops

    sizes = ops.shape_of(graph.input("input_ids"), output_type="i64")
    rows = ops.gather(sizes, ops.constant([0]), ops.constant(0))
    for state in graph.get_ops():
        if state.get_type_name() == "ReadValue":
            rest = [side.get_length() if side.is_static else 0 for side in list(state.get_output_partial_shape(0))[1:]]
            shape = ops.concat([rows, ops.constant(np.array(rest, np.int64))], axis=0)
            state.set_arguments([ops.broadcast(ops.constant(0.0, dtype=np.float32), shape).output(0)])
    graph.validate_nodes_and_infer_types()


def _tokenizer() -> tuple[Any, Any]:
    """Return graphs of a stand-in tokenizer of bytes, and of its inverse."""
    from openvino_tokenizers import convert_tokenizer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    bytewise: Any = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [("a", "b")]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>", pad_token="<end>")
    return convert_tokenizer(fast, with_detokenizer=True)  # pyright: ignore


def _example(module: Any) -> tuple[Any, ...]:
    """Return inputs to trace with: two sequences, three past tokens and two new ones."""
    ids, places = torch.zeros(2, 2, dtype=torch.long), torch.tensor([[3, 4]] * 2)
    cache = module(input_ids=ids[:, :1].repeat(1, 3), use_cache=True).past_key_values
    return ids, torch.ones(2, 5, dtype=torch.long), places, [(layer.keys, layer.values) for layer in cache.layers]
