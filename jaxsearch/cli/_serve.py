"""The verb that answers other programs: `serve`."""

from __future__ import annotations

from absl import flags

from jaxsearch import validation
from jaxsearch.cli import _flags


def serve(argv: list[str]) -> None:
  """Serve an index over HTTP, in the protocols of Search-R1, ReSearch and others."""
  values = flags.FlagValues()
  rest = _flags.define_config(values, argv, is_needed=False)
  flags.DEFINE_string('index', None, 'Empty: retrieval.index.', values)
  flags.DEFINE_string('backend', None, 'Empty: retrieval.backend.', values)
  flags.DEFINE_integer('workers', None, 'Empty: retrieval.workers.', 1, flag_values=values)
  host = flags.DEFINE_string('host', '127.0.0.1', 'Where to listen; 0.0.0.0: everywhere.', values)
  port = flags.DEFINE_integer('port', 8000, '0: any that is free.', 0, 65535, flag_values=values)
  queue = flags.DEFINE_integer(
    'queue', 4096, 'Queries in flight; more are refused with 429.', 1, flag_values=values
  )
  _flags.parse('serve', values, rest)
  config = values['config'].value
  for name in ('index', 'backend', 'workers'):
    if values[name].value is not None:
      setattr(config.retrieval, name, values[name].value)
  validation.validate(config, 'serve')
  from jaxsearch.retrieval.http import server

  server.serve(config.retrieval, host=host.value, port=port.value, most_queries=queue.value)
