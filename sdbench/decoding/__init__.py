"""Decoders: prompts in, finished sequences with their traces out."""

from sdbench.decoding.base import Decoder as Decoder, Finished as Finished, Request as Request
from sdbench.decoding.diffusion import (
    SelfSpeculativeDiffusion as SelfSpeculativeDiffusion,
    StepwiseDiffusion as StepwiseDiffusion,
)
from sdbench.decoding.dynasd import DynaSD as DynaSD
from sdbench.decoding.pearl import Pearl as Pearl
from sdbench.decoding.reflective import Reflective as Reflective
from sdbench.decoding.scoring import Plain as Plain, Scoring as Scoring
from sdbench.decoding.speculative import Speculative as Speculative
