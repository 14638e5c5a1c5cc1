"""Quality through lm-eval: any arm is one of its models, and any of its generative tasks is one of the bench's.

`python -m sdbench.lm_eval run ...` is lm-eval's own command line with the model `sdbench` and the tasks of this package;
`sdbench run tasks=lm_eval/NAME` measures an lm-eval task as it does every other.
"""
