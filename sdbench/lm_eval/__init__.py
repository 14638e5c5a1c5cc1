"""Connect the bench with lm-eval: lm-eval can use an arm as a model, and the bench can use a generative lm-eval task.

`python -m sdbench.lm_eval run ...` is lm-eval's command line with the model `sdbench` and the tasks of this package.
`sdbench run tasks=lm_eval/NAME` measures an lm-eval task like every other task.
"""
