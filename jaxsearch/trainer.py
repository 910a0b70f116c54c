"""Reinforcement learning: the outer loop, read aloud.

  take questions, roll out, reward, advantage, batch, update, record; evaluate and save when due

A step is a pure function of the checkpoint, the configuration and the documents: questions follow
from how many were taken, random numbers from the step's number, searches of a step are journalled,
and nothing is in flight between steps. So a run that was killed at any moment goes on from its last
committed checkpoint as if nothing had happened; one that is told to stop saves once more before.
"""

from __future__ import annotations

from typing import Any

from jaxsearch import config as config_lib
from jaxsearch import metrics as metrics_lib
from jaxsearch import sharding, supervision
from jaxsearch.interruption import Interrupted, Notice
from jaxsearch.supervision import Watchdog
from jaxsearch.training_run import Run


def train(config: config_lib.Config) -> None:
  """Trains until the schedule ends; the same call again resumes.

  Raises:
    UserError: for files, names and sizes that do not fit; when the infrastructure loses more than
      `schedule.infra_limit` of a step's rollouts.
    Interrupted: if a host was told to stop; everything is saved.
  """
  supervision.tell('run', config.run_dir)
  watchdog = Watchdog(config.schedule.update_limit_s)
  with Notice() as notice, Run(config) as run:
    for step in run.steps():
      clock, metrics = metrics_lib.Clock(), run.progress.figures()
      run.load_weights(clock)
      if run.progress.evaluates(step):
        metrics |= run.evaluate(step, clock)
      # The hosts agree on this. Dev comes before it: a checkpoint is saved with its score.
      is_told_to_stop = any(sharding.gather_json(notice.is_given))
      if run.saves(step, is_told_to_stop):
        run.save(step, metrics.get('val/em'), clock)
      if not run.progress.is_last(step):
        if is_told_to_stop:
          raise Interrupted(
            f'told to stop (SIGTERM); step {step} is saved in {config.run_dir}, and the same '
            'command goes on from it.'
          )
        metrics |= _improve(run, step, clock, watchdog)
      run.record(step, metrics | clock.seconds())
    run.export()


def _improve(run: Run, step: int, clock: metrics_lib.Clock, watchdog: Watchdog) -> dict[str, Any]:
  """One step of training; returns its figures."""
  trajectories, summaries = run.collect(step, clock)
  advantages = run.estimate(summaries, step)
  updates = run.batch(trajectories, summaries, advantages)
  figures = run.figures(trajectories, summaries, advantages)
  with watchdog():
    return figures | run.update(updates, clock)
