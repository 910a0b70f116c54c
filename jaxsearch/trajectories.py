"""Trajectories as text and as JSON lines: what rewards, reports and people read.

A record is one line of a trajectory file; `summarize` turns the records of an evaluation into
its figures. Trajectories that the infrastructure lost count as wrong and are counted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxsearch.types import Document, Kind, Response, Status, Trajectory, Turn, UserError

Record = dict[str, Any]


def respond(trajectory: Trajectory, tokenizer: Any) -> Response:
  """The response alone: the text of POLICY and OBSERVATION segments, never the prompt.

  Args:
    trajectory: all its contexts are read, in order.
    tokenizer: `text.tokenizer.Tokenizer`.
  """
  parts = tuple(
    (segment.kind, tokenizer.text_of(segment.ids))
    for context in trajectory.contexts
    for segment in context.segments
    if segment.kind is not Kind.PROMPT
  )
  return Response(parts=parts, status=trajectory.status, turns=trajectory.turns)


def record(trajectory: Trajectory, tokenizer: Any, protocol: Any) -> Record:
  """A trajectory as a dictionary that JSON can hold.

  Args:
    trajectory: scored, so that `rewards` is filled.
    tokenizer: `text.tokenizer.Tokenizer`.
    protocol: an opened protocol; finds the answer.
  """
  task, question = trajectory.task, trajectory.task.question
  return {
    'step': task.step,
    'position': task.position,
    'sample': task.sample,
    'id': question.id,
    'question': question.text,
    'golden_answers': list(question.golden_answers),
    'metadata': dict(question.metadata),
    'status': str(trajectory.status),
    'attempt': trajectory.attempt,
    'rewards': {name: float(value) for name, value in trajectory.rewards.items()},
    'answer': protocol.answer(respond(trajectory, tokenizer)),
    'segments': [
      {'kind': str(s.kind), 'text': tokenizer.text_of(s.ids), 'tokens': len(s.ids)}
      for context in trajectory.contexts
      for s in context.segments
    ],
    'turns': _turns(trajectory),
  }


def without_texts(trajectory: Trajectory) -> Trajectory:
  """The same without the texts of its documents and its log-probabilities: what metrics read."""

  def shorten(turn: Turn) -> Turn:
    documents = tuple(tuple(Document(d.id, '', '') for d in found) for found in turn.documents)
    return dataclasses.replace(turn, documents=documents)

  contexts = tuple(
    dataclasses.replace(
      context,
      segments=tuple(dataclasses.replace(s, logprobs=None) for s in context.segments),
      turns=tuple(shorten(turn) for turn in context.turns),
    )
    for context in trajectory.contexts
  )
  return dataclasses.replace(trajectory, contexts=contexts)


def write(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
  """Writes JSON lines; the file appears whole or not at all."""
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  partial = f'{os.fspath(path)}.partial'
  with open(partial, 'w', encoding='utf-8') as file:
    for line in records:
      file.write(json.dumps(line, ensure_ascii=False) + '\n')
  os.replace(partial, path)


def read(path: str | os.PathLike[str]) -> list[Record]:
  """Reads what `write` wrote.

  Raises:
    UserError: names the file and the line that is not JSON.
  """
  records = []
  with open(path, encoding='utf-8') as file:
    for number, line in enumerate(file, start=1):
      try:
        records.append(json.loads(line))
      except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {number} is not JSON ({error}); remove the line.') from error
  return records


def summarize(records: Sequence[Record]) -> dict[str, Any]:
  """The figures of an evaluation.

  Returns:
    em, cover_em, f1: means over all records; lost ones count as 0.
    em_ci: Wilson's 95 % interval of em.
    em_by_hops, searches_by_hops, n_by_hops: keyed by `metadata.hops` as text, where known.
    by_dataset: the means keyed by `metadata.dataset`, where known.
    searches: mean number of searches; malformed: share without a well-formed response, of those
      not lost; n, n_infra: records, and those that the infrastructure lost.
  """
  kept = [r for r in records if r['status'] != Status.INFRA]
  em = _mean_reward(records, 'em')
  by_hops = _group(records, 'hops')
  summary = {
    'em': em,
    'em_ci': _wilson(em, len(records)),
    'cover_em': _mean_reward(records, 'cover_em'),
    'f1': _mean_reward(records, 'f1'),
    'em_by_hops': {hops: _mean_reward(group, 'em') for hops, group in by_hops.items()},
    'searches_by_hops': {hops: _searches(group) for hops, group in by_hops.items()},
    'n_by_hops': {hops: len(group) for hops, group in by_hops.items()},
    'searches': _searches(records),
    'malformed': _mean([float(r['rewards'].get('format', 0) == 0) for r in kept]),
    'n': len(records),
    'n_infra': len(records) - len(kept),
  }
  by_dataset = _group(records, 'dataset')
  if by_dataset:
    summary['by_dataset'] = {
      name: {metric: _mean_reward(group, metric) for metric in ('em', 'cover_em', 'f1')}
      | {'n': len(group)}
      for name, group in by_dataset.items()
    }
  return summary


def _turns(trajectory: Trajectory) -> list[Record]:
  """`segment` counts over all contexts, as the record's `segments` do."""
  lines, offset = [], 0
  for context in trajectory.contexts:
    lines += [_turn(turn, offset + turn.segment) for turn in context.turns]
    offset += len(context.segments)
  return lines


def _turn(turn: Turn, segment: int) -> Record:
  return {
    'queries': list(turn.queries),
    'outcome': str(turn.outcome),
    'latency_s': round(turn.latency_s, 4),
    'shown': turn.shown,
    'segment': segment,
    'documents': [
      [{'id': d.id, 'title': d.title, 'score': float(d.score)} for d in documents]
      for documents in turn.documents
    ],
  }


def _group(records: Sequence[Record], key: str) -> Mapping[str, list[Record]]:
  groups: dict[str, list[Record]] = {}
  for r in records:
    if key in r['metadata']:
      groups.setdefault(str(r['metadata'][key]), []).append(r)
  return dict(sorted(groups.items()))


def _mean_reward(records: Sequence[Record], name: str) -> float:
  return _mean(
    [0.0 if r['status'] == Status.INFRA else float(r['rewards'].get(name, 0)) for r in records]
  )


def _searches(records: Sequence[Record]) -> float:
  return _mean([float(len(r['turns'])) for r in records])


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values) if values else 0.0


def _wilson(share: float, n: int) -> list[float]:
  """Wilson (1927): the shares p with |share - p| <= z sqrt(p (1 - p) / n), z = 1.96."""
  if n == 0:
    return [0.0, 1.0]
  z = 1.959964
  centre = (share + z * z / (2 * n)) / (1 + z * z / n)
  half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
  return [max(0.0, centre - half), min(1.0, centre + half)]
