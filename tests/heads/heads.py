"""What the tests of heads share: a target, a head that learnt some of its texts, and a plain computation of the head."""

from __future__ import annotations

from functools import cache

import torch
import transformers as t

from sdbench.heads.config import HeadConfig
from sdbench.heads.eagle3 import Eagle3
from tests.conftest import V, random_model

TAPS = (1, 2, 4)
PROPOSED = 60  # of the V tokens: every id but those divisible by 3, and then some
NEW = 14


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, V, (count,), generator=generator).tolist() for count in (6, 1, 11)]


def generated(raw, prompt: list[int]) -> list[int]:
    return _generated(raw, tuple(prompt))


@cache
def _generated(raw, prompt: tuple[int, ...]) -> list[int]:
    ids = torch.tensor([prompt])
    out = raw.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def hidden_of(raw, tokens: torch.Tensor) -> torch.Tensor:
    """The tapped hidden states [B, T, 3W] by transformers."""
    with torch.no_grad():
        states = raw(tokens, output_hidden_states=True).hidden_states
    return torch.cat([states[layer] for layer in TAPS], -1)


def head_config(kind: str = "llama", vocab: int = PROPOSED, **more) -> HeadConfig:
    make = {"llama": t.LlamaConfig, "qwen3": t.Qwen3Config}[kind]
    layer = make(
        vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, attn_implementation="sdpa", head_dim=16, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return HeadConfig(layer, vocab, 64, TAPS, **more)


def random_head(raw, config: HeadConfig) -> Eagle3:
    """A head with random weights, over random tokens of the target."""
    torch.manual_seed(3)
    head = Eagle3(config, raw.get_input_embeddings().weight).eval().requires_grad_(False)
    ids = torch.randperm(V)[: config.draft_vocab].sort().values
    head.d2t.copy_(ids - torch.arange(len(ids)))
    head.t2d.fill_(False)[ids] = True
    for norm in (head.norm, *(part for name, part in head.layers[0].named_children() if "norm" in name)):
        norm.weight.data.uniform_(0.5, 1.5)
    return head


@cache
def trained(architecture: str):
    """A target and a head that was trained on two of its three answers: its drafts are kept at times."""
    raw = random_model(architecture)
    head = random_head(raw, head_config("llama" if architecture == "llama" else "qwen3"))
    place = torch.full((V,), -100)
    place[head.proposed] = torch.arange(PROPOSED)
    texts = [torch.tensor([[*prompt, *generated(raw, prompt)]]) for prompt in prompts()[::2]]
    work = [(text, hidden_of(raw, text)) for text in texts]
    weights = [weight for name, weight in head.named_parameters() if name != "embed_tokens.weight"]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, 4e-3)
    for _ in range(25):
        loss = torch.zeros(())
        for text, hidden in work:
            for step, logits in enumerate(head.unrolled(text, hidden, 3)):
                wanted = place[text[0, step + 2 :]]
                loss = loss + torch.nn.functional.cross_entropy(logits[0, :-1], wanted, ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return raw, head.requires_grad_(False)


def plain(head: Eagle3, raw, tokens: list[int], decided: int, parents: list[int] | None = None) -> torch.Tensor:
    """The logits [R] behind the last of `tokens`, token by token, without a cache and without the module's own forward.

    The first `decided` tokens are decided, and the target has read all of them but the last. parents: the place whose feature each
    token is read with; by default the one before it.
    """
    layer, config = head.layers[0], head.config
    attention = layer.self_attn
    width, groups = config.head_dim, config.num_attention_heads // config.num_key_value_heads

    def normed(x, weight):
        return weight * x * (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt()

    def turned(x, position):
        angle = position / config.rope_parameters["rope_theta"] ** (torch.arange(0, width, 2) / width)
        cos, sin = torch.cat([angle, angle]).cos(), torch.cat([angle, angle]).sin()
        return x * cos + torch.cat([-x[..., width // 2 :], x[..., : width // 2]], -1) * sin

    def split(name, norm, x):
        heads = getattr(attention, name)(x).view(-1, width)
        return normed(heads, getattr(attention, norm).weight) if hasattr(attention, norm) else heads

    features = list(head.fc(hidden_of(raw, torch.tensor([tokens[: decided - 1]]))[0]))
    keys, values, state = [], [], features[0]
    for place in range(1, len(tokens)):
        parent = features[place - 1 if parents is None else parents[place]]
        both = torch.cat(
            [
                normed(raw.get_input_embeddings().weight[tokens[place]], layer.input_layernorm.weight),
                normed(parent, layer.hidden_norm.weight),
            ]
        )
        query = turned(split("q_proj", "q_norm", both), place)
        keys.append(turned(split("k_proj", "k_norm", both), place))
        values.append(attention.v_proj(both).view(-1, width))
        k, v = (torch.stack(side).repeat_interleave(groups, 1) for side in (keys, values))
        weights = (torch.einsum("hd,phd->hp", query, k) / width**0.5).softmax(-1)
        residual = normed(parent, layer.hidden_norm.weight) if config.norm_before_residual else parent
        state = residual + attention.o_proj(torch.einsum("hp,phd->hd", weights, v).flatten())
        inner = normed(state, layer.post_attention_layernorm.weight)
        gate = torch.nn.functional.silu(layer.mlp.gate_proj(inner))
        state = state + layer.mlp.down_proj(gate * layer.mlp.up_proj(inner))
        if place >= decided - 1:
            features.append(state)
    return head.lm_head(normed(state, head.norm.weight))
