"""Texts behind prompts: a policy folder written with by the rollout's engine and sampler, on CPU.

It serves what runs beside a policy's own rollouts in a process of its own, such as a simulated
retriever. On a TPU host one process owns the accelerator, and it is not this one: `open` restricts
JAX to the CPU before anything touches a device.

A text is a function of its prompt, its key and the weights, by the promise of the engine: not of
what else is written, in which order or in which slot.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import ClassVar

import jax
import numpy as np

from jaxsearch import checkpoint, sharding
from jaxsearch import config as config_lib
from jaxsearch.protocols import _contract
from jaxsearch.rollout.dialogue import Dialogue
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.sampler import Sampler
from jaxsearch.rollout.sync import WeightSync, sampling_mesh
from jaxsearch.text import stops as stops_lib
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Kind, Question, Status, Task

# Whole numbers: all the randomness that a text has.
Key = tuple[int, ...]


class Writer:
  """A policy and the slots that it writes in."""

  def __init__(self, sampler: Sampler, tokenizer: Tokenizer, temperature: float):
    self._sampler, self._tokenizer, self._temperature = sampler, tokenizer, temperature

  def write(self, asked: Sequence[tuple[str, Key]]) -> list[str | None]:
    """What the policy writes behind each prompt with its key.

    Returns:
      the texts in order, each up to the end of text or its budget; None where the prompt left no
      room for one token.
    """
    tasks = {one: _task(*one) for one in asked}  # The same twice is written once.
    written = self._sampler.rollout(
      list(tasks.values()), pool=None, top_k=0, temperature=self._temperature
    )
    texts: dict[tuple[str, Key], str | None] = {}
    for one, trajectory in zip(tasks, written, strict=True):
      last = trajectory.contexts[0].segments[-1]
      texts[one] = self._tokenizer.text_of(last.ids) if last.kind is Kind.POLICY else None
    return [texts[one] for one in asked]


def open(
  folder: str, *, slots: int, context_tokens: int, answer_tokens: int, temperature: float
) -> Writer:
  """Opens a policy folder on the CPU and compiles.

  Args:
    folder: made by `checkpoint.save_policy`.
    slots: texts in the making at a time.
    context_tokens: of prompt and text together.
    answer_tokens: of a text, at most.
    temperature: 0 for greedy.

  Raises:
    UserError: if the folder cannot be read.
  """
  jax.config.update('jax_platforms', 'cpu')
  mesh = sharding.make_mesh(config_lib.Mesh(data=1), jax.devices('cpu')[:1])
  size, params, tokenizer = checkpoint.load_policy(folder, mesh)
  local = sampling_mesh(mesh, 1)
  rollout = config_lib.Rollout(
    slots=slots, context_tokens=context_tokens, policy_tokens=answer_tokens, max_searches=0
  )
  stops = stops_lib.compile(_Plain.stops, tokenizer)
  engine = Engine(size, stops, rollout, mesh=local)
  engine.load(WeightSync(size, mesh, local, np.float32)(params))
  engine.warmup()
  dialogue = Dialogue(_Plain(tokenizer), tokenizer, stops, rollout, seed=0)
  return Writer(Sampler(engine, Extender(engine), dialogue, rollout), tokenizer, temperature)


def _task(prompt: str, key: Key) -> Task:
  """A task whose identity, and with it its randomness, is prompt and key."""
  digest = hashlib.sha256(repr((key, prompt)).encode()).digest()
  return Task(Question('', prompt, ()), int.from_bytes(digest[:16]), sample=0, step=0)


@dataclasses.dataclass(frozen=True, eq=False)
class _Plain:
  """What the sampler asks of a protocol (`_contract.Protocol`) when nothing interrupts a row."""

  tokenizer: Tokenizer
  stops: ClassVar[tuple[str, ...]] = ()

  def prompt_ids(self, question: Question) -> np.ndarray:
    return self.tokenizer.encode_whole(question.text)

  def at_pause(self, segment: bytes, stop: str | None) -> _contract.Finish:
    del segment
    return _contract.Finish(Status.EOS if stop else Status.POLICY_TOKEN_CAP)

  def spans(self, segment: bytes) -> tuple[tuple[str, int, int], ...]:
    del segment
    return ()
