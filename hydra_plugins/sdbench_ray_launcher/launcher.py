"""Run the jobs of Hydra as tasks of a Ray cluster.

The package hydra-ray-launcher needs ray[default], boto3 and cloudpickle < 3, but our joblib needs a newer cloudpickle. This
launcher needs ray alone. Ray assigns GPUs to a task by CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class RayLauncher(Launcher):
    """Launch jobs on a Ray cluster.

    address: of the cluster; None starts one on this machine. num_cpus, num_gpus: that each job needs.
    """

    def __init__(self, address: str | None = None, num_cpus: float = 1, num_gpus: float = 0) -> None:
        self.address, self.num_cpus, self.num_gpus = address, num_cpus, num_gpus

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra gives a launcher before the launch."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job on the cluster, wait for all of them, and return their results."""
        import ray

        setup_globals()
        # Workers need this process's module path, because a user's config folder may hold Python files.
        paths = [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}
        started = not ray.is_initialized()
        if started:
            ray.init(
                address=self.address,
                runtime_env={"env_vars": environment},
                include_dashboard=False if self.address is None else None,
                log_to_driver=False,
            )
        try:
            task = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=0)(_execute)
            state = Singleton.get_state()
            common = (self.hydra_context, self.config, self.task_function, state)
            pending = [
                task.remote(initial_job_idx + index, list(job), *common) for index, job in enumerate(job_overrides)
            ]
            return ray.get(pending)
        finally:
            if started:
                ray.shutdown()


def _execute(
    number: int,
    overrides: Sequence[str],
    hydra_context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    state: dict[Any, Any],
) -> JobReturn:
    """Run one job in a worker."""
    setup_globals()
    Singleton.set_state(state)
    job = hydra_context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = f"{job.hydra.job.name}_{number}"
        job.hydra.job.num = number
    HydraConfig.instance().set_config(job)
    return run_job(
        hydra_context=hydra_context,
        config=job,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
