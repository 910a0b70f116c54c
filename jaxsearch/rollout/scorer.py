"""Forced continuations: how likely the policy holds a text behind a part of a trajectory.

A request cuts a trajectory after some of its searches, perhaps with another text in the place of
the last one's documents, and asks for the log-probability of every token of a continuation. The
engine's slots hold one trajectory each: its prompt is written once for all rollouts of a question
and forked, a longer part extends what the slot holds, and another continuation rewinds it.
Requests of all questions are answered together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsearch.rewards._contract import ScoreRequest
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.lanes import Lane
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Context, Trajectory, UserError

_KEY = np.zeros(2, np.uint32)  # Nothing is drawn.


@dataclasses.dataclass
class _Target:
  """`forced` is scored behind `prefix`, all but its first `skipped` ids; `request` is its place."""

  request: int
  prefix: np.ndarray
  forced: np.ndarray
  skipped: int


class Scorer:
  """Answers score requests with an engine whose slots are free."""

  def __init__(self, engine: Engine, tokenizer: Tokenizer):
    self._engine, self._tokenizer = engine, tokenizer
    self._held: dict[int, np.ndarray] = {}  # Slot -> ids in its cache.

  def score(
    self, trajectories: Sequence[Trajectory], requests: Sequence[ScoreRequest]
  ) -> list[np.ndarray]:
    """Log-probabilities at temperature 1, under the engine's present weights.

    Args:
      trajectories: `requests` name them by their index.
      requests: in any order.

    Returns:
      float32 [tokens of the request's text] each, in the order of the requests.

    Raises:
      UserError: if a continuation is longer than the cache has room for.
    """
    self._held = {}
    work: dict[int, list[_Target]] = {}
    for i, request in enumerate(requests):
      (context,) = trajectories[request.rollout].contexts
      work.setdefault(request.rollout, []).append(self._target(i, context, request))
    found: dict[int, np.ndarray] = {}
    rollouts = list(work)
    slots = self._engine.roomy_slots
    for start in range(0, len(rollouts), len(slots)):
      group = dict(zip(slots, rollouts[start:]))  # Slot -> rollout.
      # Short parts first: a longer one of the same trajectory only adds to what is there.
      queues = {s: sorted(work[r], key=lambda t: len(t.prefix)) for s, r in group.items()}
      self._share_prompts({slot: trajectories[r].contexts[0] for slot, r in group.items()})
      for turn in range(max(map(len, queues.values()))):
        targets = {slot: queue[turn] for slot, queue in queues.items() if turn < len(queue)}
        found |= self._force(targets)
    return [found[i] for i in range(len(requests))]

  def _target(self, place: int, context: Context, request: ScoreRequest) -> _Target:
    last = context.turns[request.turns - 1].segment if request.turns else 0
    kept = [s.ids for s in context.segments[: last + 1]]
    if request.observation is not None:
      kept[-1] = self._tokenizer.encode(request.observation)
    lead, text = self._tokenizer.encode(request.lead), self._tokenizer.encode(request.text)
    prefix, forced = np.concatenate(kept), np.concatenate([lead, text])
    # Where the last chunk would start, whose whole width is written.
    start = len(prefix) - 1 + (len(forced) - 1) // self._engine.chunk * self._engine.chunk
    if start > self._engine.room:
      raise UserError(
        f'a reward asks for {len(forced)} tokens behind {len(prefix)}, but the cache has room for '
        f'{self._engine.room}. Shorten what is asked for, such as the longest accepted answers.'
      )
    return _Target(place, prefix, forced, len(lead))

  def _share_prompts(self, contexts: dict[int, Context]) -> None:
    """Each slot gets the prompt of its context: written once per replica, then copied."""
    writers: dict[tuple[int, bytes], int] = {}
    written, copied = {}, []
    for slot, context in contexts.items():
      prompt = context.segments[0].ids
      name = (self._engine.replica(slot), prompt.tobytes())
      if name in writers:
        copied.append((slot, writers[name], prompt))
      else:
        writers[name] = slot
        written[slot] = prompt
    self._feed(written)
    lanes = [
      Lane(slot, len(prompt) - 1, prompt[:0], int(prompt[-1]), 0, _KEY, 1.0, source)
      for slot, source, prompt in copied
    ]
    for some in self._rounds(lanes):
      self._engine.fork(some)
    self._held |= {slot: prompt[:-1] for slot, _, prompt in copied}

  def _force(self, targets: dict[int, _Target]) -> dict[int, np.ndarray]:
    self._feed({slot: target.prefix for slot, target in targets.items()})
    fed = {s: np.concatenate([t.prefix[-1:], t.forced]) for s, t in targets.items()}
    scored: dict[int, list[np.ndarray]] = {slot: [] for slot in targets}
    for at in range(0, max(map(len, fed.values())) - 1, self._engine.chunk):
      lanes = [
        _chunk(slot, len(targets[slot].prefix) - 1 + at, ids[at:], self._engine.chunk)
        for slot, ids in fed.items()
        if at < len(ids) - 1
      ]
      for some in self._rounds(lanes):
        for lane, logprobs in zip(some, self._engine.score(some), strict=True):
          scored[lane.slot].append(logprobs[: len(lane.tokens)])
    # The cache holds the forced ids as well; the next part of the trajectory overwrites them.
    return {
      target.request: np.concatenate([np.zeros(0, np.float32), *scored[slot]])[target.skipped :]
      for slot, target in targets.items()
    }

  def _feed(self, wanted: dict[int, np.ndarray]) -> None:
    """Lets each slot hold all of its ids but the last; keeps what it holds of them already."""
    todo = {slot: _common(self._held.get(slot), ids[:-1]) for slot, ids in wanted.items()}
    while todo:
      lanes = [_chunk(s, at, wanted[s][at:], self._engine.chunk) for s, at in todo.items()]
      for some in self._rounds([lane for lane in lanes if len(lane.tokens)]):
        self._engine.extend(some)
      todo = {lane.slot: lane.start + len(lane.tokens) for lane in lanes}
      todo = {slot: at for slot, at in todo.items() if at < len(wanted[slot]) - 1}
    self._held |= {slot: ids[:-1] for slot, ids in wanted.items()}

  def _rounds(self, lanes: Sequence[Lane]) -> list[list[Lane]]:
    """The lanes in groups that one program takes: at most R of each replica."""
    rounds: list[list[Lane]] = []
    used: dict[int, int] = {}
    for lane in lanes:
      replica = self._engine.replica(lane.slot)
      number = used.get(replica, 0) // self._engine.lanes
      used[replica] = used.get(replica, 0) + 1
      if number == len(rounds):
        rounds.append([])
      rounds[number].append(lane)
    return rounds


def _chunk(slot: int, start: int, ids: np.ndarray, chunk: int) -> Lane:
  """Writes as many of `ids` but the last as one program takes, from `start` on."""
  fed = ids[: min(chunk, len(ids) - 1)]
  return Lane(slot, start, fed, int(ids[len(fed)]), 0, _KEY, 1.0)


def _common(held: np.ndarray | None, ids: np.ndarray) -> int:
  """Length of the common beginning."""
  if held is None:
    return 0
  length = min(len(held), len(ids))
  differs = np.flatnonzero(held[:length] != ids[:length])
  return int(differs[0]) if len(differs) else length
