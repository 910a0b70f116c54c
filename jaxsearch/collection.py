"""From real searches to a simulated search engine: the records that a simulator learns from.

`collect` has a policy answer questions with a retriever and writes down what each query found, a
JSON line each: {"question_id", "query", "question", "golden_answers", "documents": [{"id", "title",
"text"} …], "useful"}. `render` makes of them the contexts that `warmstart --task=simulator` trains
on.

Useful is told by rule, not by a judge: the documents of a query are useful if one of them is a
supporting document of the question, where these are known, else if an accepted answer stands in the
text of one. ZeroSearch (arXiv 2505.04588, section 3.3) asks a language model whether the documents
hold enough information for the query. A rule costs nothing and says the same every time, but it is
blind to documents that answer the query without leading to the answer of the question.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxsearch import config as config_lib
from jaxsearch import evaluation, trajectories
from jaxsearch import questions as questions_lib
from jaxsearch.retrieval import _simulation
from jaxsearch.text import answers
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Context, Document, Kind, Question, Segment, Task, Trajectory, UserError

KINDS = {True: 'useful', False: 'noisy'}
_SHAPE = (
  '{"query", "question", "golden_answers": ["…"], "documents": [{"title", "text"} …], '
  '"useful": true or false}'
)


def collect(
  config: config_lib.Config, *, policy: str, questions: str, out: str, samples: int
) -> dict[str, int]:
  """Writes down what the queries of a policy find with `config.retrieval`.

  Args:
    config: everything but the following; a simulated retriever misleads as at the first step.
    policy: policy folder.
    questions: question file.
    out: file of records to write.
    samples: rollouts of each question, at `rollout.temperature`.

  Returns:
    records of each kind.

  Raises:
    UserError: if no search found a document.
  """
  asked = questions_lib.read(questions)
  tasks = [Task(q, i, s, 0) for i, q in enumerate(asked) for s in range(samples)]
  with evaluation.at_work(config, policy, config.retrieval) as (actor, pool):
    rollouts = evaluation.roll_out(
      actor,
      tasks,
      pool=pool,
      top_k=config.retrieval.top_k,
      temperature=config.rollout.temperature,
      label='collect',
      describe=_describe,
    )
  found = [record for rollout in rollouts for record in rollout['records']]
  if not found:
    raise UserError(
      f'no search of {policy!r} on {questions!r} found a document; give a --policy that searches, '
      'or more --samples.'
    )
  counts = collections.Counter(KINDS[record['useful']] for record in found)
  if jax.process_index() == 0:
    trajectories.write(out, found)
    print(json.dumps({kind: counts[kind] for kind in KINDS.values()}))
  return dict(counts)


def records_of(trajectory: Trajectory) -> list[dict[str, Any]]:
  """One record per query that was shown a document."""
  question = trajectory.task.question
  return [
    {
      'question_id': question.id,
      'query': query,
      'question': question.text,
      'golden_answers': list(question.golden_answers),
      'documents': [{'id': d.id, 'title': d.title, 'text': d.text} for d in found[: turn.shown]],
      'useful': is_useful(question, found[: turn.shown]),
    }
    for turn in trajectory.turns
    for query, found in zip(turn.queries, turn.documents)
    if found[: turn.shown]
  ]


def is_useful(question: Question, documents: Sequence[Document]) -> bool:
  """The rule at the head of this file."""
  supporting = question.metadata.get('supporting_documents')
  if supporting:
    return any(document.id in map(str, supporting) for document in documents)
  return any(answers.cover_match(d.text, question.golden_answers) for d in documents)


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads a file of records.

  Raises:
    UserError: names file, line and what is wrong with it.
  """
  records = []
  for number, item in enumerate(trajectories.read(path), start=1):
    problem = _problem(item)
    if problem:
      raise UserError(f'{path}, line {number}: {problem}. A line is {_SHAPE}.')
    records.append(item)
  if not records:
    raise UserError(
      f'{path} holds no record. Each line is {_SHAPE}; `jaxsearch collect` writes it.'
    )
  return records


def render(
  records: Sequence[Mapping[str, Any]], settings: config_lib.Retrieval, tokenizer: Tokenizer
) -> list[Context]:
  """The contexts that a simulator would have made which wrote exactly these documents.

  The prompt is the one that `retrieval.backends.engine_simulator` will feed with the same settings,
  the text behind it the one that it will read; the end of text follows.
  """
  wording = _simulation.wording(settings)
  contexts = []
  for item in records:
    question = Question('', item['question'], tuple(item['golden_answers']))
    prompt = wording.prompt(item['query'], item['useful'], question, settings.top_k)
    documents = [Document('', d['title'], d['text']) for d in item['documents']]
    ids = tokenizer.encode(_simulation.render(documents[: settings.top_k]))
    ids = np.append(ids, tokenizer.eos_ids[0]).astype(np.int32)
    segments = (
      Segment(Kind.PROMPT, tokenizer.encode_whole(prompt)),
      Segment(Kind.POLICY, ids, np.zeros(len(ids), np.float32)),
    )
    contexts.append(Context(segments))
  return contexts


def _describe(trajectory: Trajectory, *_: Any) -> dict[str, Any]:
  task = trajectory.task
  return {'position': task.position, 'sample': task.sample, 'records': records_of(trajectory)}


def _problem(item: Any) -> str:
  """What is wrong with a record; empty if nothing is."""
  try:
    texts = [item['query'], item['question'], *item['golden_answers']]
    if not isinstance(item['golden_answers'], list):
      return f'golden_answers is {item["golden_answers"]!r}'
    texts += [part for d in item['documents'] for part in (d['title'], d['text'])]
    useful, count = item['useful'], len(item['documents'])
  except (KeyError, TypeError) as error:
    return repr(error)
  if not all(isinstance(text, str) for text in texts):
    return 'a query, question, answer, title or text is not a string'
  if type(useful) is not bool:
    return f'useful is {useful!r}'
  return '' if count else 'documents is empty'
