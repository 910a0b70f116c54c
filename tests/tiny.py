"""A task and a policy so small that whole runs fit into a test: files, configuration, commands.

Every word lies near the next one; a question asks what lies near a word, and a search finds it.
The policy is warm-started for a few seconds, so that it searches, answers and errs.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import numpy as np

from jaxsearch import config, metrics, trajectories
from jaxsearch.retrieval.indexing import build
from jaxsearch.text import tokenizer

ROOT = pathlib.Path(__file__).parents[1]
WORDS = (
  *('amber', 'birch', 'cedar', 'dune', 'ember', 'fjord', 'grove', 'heath'),
  *('islet', 'juniper', 'kelp', 'lagoon', 'meadow', 'nook', 'oasis', 'pine'),
)
NEAR = dict(zip(WORDS, WORDS[1:] + WORDS[:1]))
# Figures of time, and of how answers were come by: a resumed step finds them in its journal.
NOT_REPEATED = (
  *('timing_s/', 'perf/', 'search/latency_s/', 'search/queue_s/', 'search/search_s/'),
  *('search/retries', 'search/failures/', 'search/hedges', 'search/worker_restarts'),
  *('search/from_journal', 'search/from_cache', 'search/coalesced'),
)


def write(folder):
  """Corpus, index, questions, demonstrations, tokenizer and prompt under `folder`."""
  documents = [
    {'id': f'd{i}', 'contents': f'{a}\nThe {a} lies near {b}.'}
    for i, (a, b) in enumerate(NEAR.items())
  ]
  questions = [
    {
      'id': f'q{i}',
      'question': f'What is near {a}?',
      'golden_answers': [b],
      'metadata': {'hops': 1 + i % 2, 'supporting_documents': [f'd{i}']},
    }
    for i, (a, b) in enumerate(NEAR.items())
  ]
  demonstrations = [
    {
      **{name: line[name] for name in ('id', 'question', 'golden_answers')},
      'steps': [{'think': 'Look.', 'search': a}, {'think': 'It is.', 'answer': b}],
    }
    for line, (a, b) in zip(questions, NEAR.items())
  ]
  lines(folder / 'corpus.jsonl', documents)
  lines(folder / 'train.jsonl', questions[:11])
  lines(folder / 'dev.jsonl', questions[11:])
  lines(folder / 'demonstrations.jsonl', demonstrations)
  (folder / 'prompt.txt').write_text('{question}\n')
  build.build(str(folder / 'corpus.jsonl'), str(folder / 'index'))
  tags = '<think> Look. </think>\n<search> {} </search>\n<result>\n{}\n</result>\n'
  tags += '<think> It is. </think>\n<answer> \\boxed{{ {} }} </answer>'
  texts = [d['contents'] for d in documents] + [q['question'] for q in questions]
  texts += [tags.format(a, b, b) for a, b in NEAR.items()]
  tokenizer.train(texts, 360, folder / 'tokenizer')


def configure(folder, run):
  """The configuration of everything under `folder`, writing to `folder / run`."""
  c = config.Config(run_dir=f'{folder}/{run}')
  c.policy.path = f'{folder}/start/warmstart/policy'
  c.policy.scan, c.policy.remat = False, 'none'
  c.model = config.Model(
    layers=2,
    embed=32,
    heads=2,
    kv_heads=1,
    head_size=16,
    hidden=64,
    tokenizer=f'{folder}/tokenizer',
  )
  c.questions = config.Questions(f'{folder}/train.jsonl', f'{folder}/dev.jsonl')
  c.protocol.prompt = f'{folder}/prompt.txt'
  c.retrieval = config.Retrieval(index=f'{folder}/index', top_k=1)
  c.eval_retrieval = config.Retrieval(index=f'{folder}/index', top_k=1)
  c.rollout = config.Rollout(
    slots=6,
    context_tokens=128,
    policy_tokens=64,
    max_searches=2,
    decode_steps=8,
    extend_rows=2,
    extend_tokens=16,
  )
  c.algo = config.Algo(questions_per_step=4, group_size=4, entropy_coef=0.01)
  c.optimizer = config.Optimizer(learning_rate=3e-3)
  c.learner = config.Learner(buckets=(64, 128), tokens_per_microbatch=512, logprob_chunk=64)
  c.schedule = config.Schedule(steps=6, eval_every=3, checkpoint_every=1)
  c.warmstart = config.Warmstart(
    demonstrations=f'{folder}/demonstrations.jsonl',
    steps=150,
    tokens_per_step=1024,
    observation_weight=0.3,
    optimizer=config.Optimizer(learning_rate=1e-2, warmup_steps=10),
  )
  return c


def command(verb, folder, run, **overrides):
  """The command line of a verb, for the configuration file of this module."""
  flags = [f'--config.{name.replace("__", ".")}={value}' for name, value in overrides.items()]
  return [verb, f'--config={__file__}:{folder},{run}', *flags]


def start(arguments, log, **environment):
  """Starts `jaxsearch ARGUMENTS` as a process; its output goes to the file `log`."""
  with open(log, 'a') as out:
    return subprocess.Popen(
      [sys.executable, '-m', 'jaxsearch', *arguments],
      env={**variables(), **environment},
      stdout=out,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )


def start_together(arguments, logs, **environment):
  """Starts one verb as several processes of one run, a log for each."""
  coordinator = f'localhost:{free_port()}'
  return [
    start(
      arguments,
      log,
      JAXSEARCH_COORDINATOR=coordinator,
      JAXSEARCH_NUM_PROCESSES=str(len(logs)),
      JAXSEARCH_PROCESS_ID=str(number),
      **environment,
    )
    for number, log in enumerate(logs)
  ]


def free_port():
  """A port that nobody listens to."""
  with socket.socket() as free:
    free.bind(('', 0))
    return free.getsockname()[1]


def finish(arguments, log, **environment):
  """Runs `jaxsearch ARGUMENTS` to its end; its exit code and what it printed."""
  code = start(arguments, log, **environment).wait()
  return code, pathlib.Path(log).read_text()


def variables():
  """The environment of the commands: what was compiled once is not compiled again."""
  compiled = os.path.join(tempfile.gettempdir(), 'jaxsearch-tests')
  cache = {
    'JAX_COMPILATION_CACHE_DIR': os.environ.get('JAX_COMPILATION_CACHE_DIR', compiled),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }
  return {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', **cache}


def kill(process):
  """SIGKILL to the process and all that it started, if it still runs."""
  if process.poll() is None:
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def lines(path, items):
  """Writes JSON lines."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(item) + '\n' for item in items))


def repeated(run_dir):
  """The metric lines of a run without what another run need not repeat."""
  return [
    {name: value for name, value in line.items() if not name.startswith(NOT_REPEATED)}
    for line in metrics.read(run_dir)
  ]


def get_config(arguments):
  folder, run = arguments.split(',')
  return configure(folder, run)


def leaves(config):
  """Every array of the newest checkpoint of a run: parameters, moments, counters."""
  return _leaves(config, lambda abstract, checkpoints, _: checkpoints.restore_latest(abstract)[0])


def start_leaves(config):
  """The same of the state that the run started from."""
  return _leaves(config, lambda _, __, fresh: fresh)


def _leaves(config, choose):
  import jax

  from jaxsearch import checkpoint, learner, sharding

  mesh = sharding.make_mesh(config.mesh)
  size, params, _ = checkpoint.load_policy(config.policy.path, mesh)
  made = learner.Learner(config, size, mesh)
  folder = pathlib.Path(config.run_dir) / 'checkpoints'
  checkpoints = checkpoint.RunCheckpoints(folder, config.schedule)
  state = choose(made.abstract_state(), checkpoints, made.init_state(params))
  checkpoints.close()
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def rollouts(run_dir):
  """Every trajectory of a run by its name, without the seconds that its searches took."""
  found = {}
  for path in sorted(pathlib.Path(run_dir, 'trajectories').glob('*.jsonl')):
    for record in trajectories.read(path):
      for turn in record['turns']:
        del turn['latency_s']
      split = path.name.partition('_')[0]
      found[split, record['step'], record['position'], record['sample']] = record
  return found


def make_faulty(folder, name, **faults):
  """A copy of the index that meets faults; see `retrieval/backends/faulty.py`."""
  shutil.copytree(folder / 'index', folder / name, dirs_exist_ok=True)
  (folder / name / 'faults.json').write_text(json.dumps(faults))
  return {'retrieval__backend': 'faulty', 'retrieval__index': folder / name}
