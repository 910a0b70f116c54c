"""When a run ends and how far it is, worked by hand."""

from jaxsearch import config
from jaxsearch.progress import Progress


def progress(**schedule):
  return Progress(config.Schedule(**schedule))


def test_without_a_limit_the_steps_alone_count():
  p = progress(steps=4, eval_every=3)
  p.tokens = 10**9
  assert list(p.steps(0)) == [0, 1, 2, 3, 4] and list(p.steps(4)) == [4]
  assert [p.evaluates(step) for step in range(5)] == [True, False, False, True, True]
  assert [p.share(step) for step in (0, 1, 2)] == [0.0, 0.25, 0.5]


def test_enough_generated_tokens_end_a_run_at_the_next_step():
  p = progress(steps=100, generated_tokens=50, eval_every=10)
  seen = []
  for step in p.steps(0):
    seen.append((step, p.is_last(step), p.evaluates(step), p.share(step)))
    if not p.is_last(step):
      p.tokens += 20  # What the step samples.
  assert seen == [
    (0, False, True, 0.0),
    (1, False, False, 0.4),
    (2, False, False, 0.8),
    (3, True, True, 1.2),
  ]


def test_a_checkpoint_brings_it_back():
  p = progress(steps=10, generated_tokens=5)
  p.questions, p.tokens = 3, 7
  assert Progress(p.schedule, **p.meta()) == p
  assert p.figures() == {'progress/questions': 3, 'progress/generated_tokens': 7}
