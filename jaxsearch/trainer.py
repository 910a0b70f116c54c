"""Reinforcement learning: the outer loop, read aloud.

  take questions, roll out, reward, advantage, batch, update, record; evaluate and save when due

A step is a pure function of the checkpoint, the configuration and the documents: questions follow
from how many were taken, random numbers from the step's number, searches of a step are journalled,
and nothing is in flight between steps. So a run that was killed at any moment goes on from its last
committed checkpoint as if nothing had happened.
"""

from __future__ import annotations

from typing import Any

from jaxsearch import config as config_lib
from jaxsearch import metrics as metrics_lib
from jaxsearch.training_run import Run


def train(config: config_lib.Config) -> None:
  """Trains until the schedule ends; the same call again resumes.

  Raises:
    UserError: for files, names and sizes that do not fit; when the infrastructure loses more than
      `schedule.infra_limit` of a step's rollouts.
  """
  with Run(config) as run:
    for step in run.steps():
      clock, metrics = metrics_lib.Clock(), run.progress.figures()
      run.load_weights(clock)
      if run.progress.evaluates(step):
        metrics |= run.evaluate(step, clock)
      if run.saves(step):
        run.save(step, metrics.get('val/em'), clock)
      if not run.progress.is_last(step):
        metrics |= _improve(run, step, clock)
      run.record(step, metrics | clock.seconds())
    run.export()


def _improve(run: Run, step: int, clock: metrics_lib.Clock) -> dict[str, Any]:
  """One step of training; returns its figures."""
  trajectories, summaries = run.collect(step, clock)
  advantages = run.estimate(summaries, step)
  updates = run.batch(trajectories, summaries, advantages)
  return run.figures(trajectories, summaries, advantages) | run.update(updates, clock)
