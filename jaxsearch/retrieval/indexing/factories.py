"""Which FAISS index suits a corpus and a memory budget.

Small corpora are searched exactly. Larger ones are cut into lists (IVF), which can be mapped and
whose building is deterministic. A document there is two bits a dimension (RaBitQ2), and the best
are scored again with one byte a dimension (`Refine(SQ8)`). If both do not fit into memory, it is
the bytes alone; if those do not fit either, they stay on the disk and the bits in memory.

HNSW over the documents is never chosen: it needs the graph besides, and several threads build
another graph each time. Over the centres of the lists, where one thread builds it, it finds the
nearest ones.
"""

from __future__ import annotations

import dataclasses
import math

import faiss

from jaxsearch.types import UserError

# Of a document's id beside its code in a list.
_ID_BYTES = 8
# Up to so many documents the exact search of a batch takes milliseconds.
_FLAT_DOCUMENTS = 50_000
# FAISS' own guideline: k-means wants so many training vectors for a centre, and uses no more of
# them than the other number; more lists than 16 sqrt(N) are not worth their centres.
_LEAST_POINTS, _MOST_POINTS = 39, 64
_LISTS_PER_ROOT = 16
# Of the budget, for the training sample: turned and clustered copies make three times as much.
_SAMPLE_SHARE = 4
# What is in the lists, from the best to the smallest; `d` is the number of dimensions. Two bits a
# dimension are read four times as fast as eight, and lose nothing once the best twelve are scored
# again (docs/retrieval.md); but the bytes that score them have to be somewhere.
_CODES = (
  ('RR{d},{lists},RaBitQ2,Refine(SQ8)', 'two bits a dimension, re-ranked with bytes in memory'),
  ('{lists},SQ8', 'one byte a dimension'),
  ('RR{d},{lists},RaBitQ2,Refine(SQ8)', 'two bits a dimension, re-ranked with bytes on the disk'),
  ('RR{d},{lists},RaBitQ,Refine(SQ8)', 'one bit a dimension, re-ranked with bytes on the disk'),
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """An index to build.

  Attributes:
    factory: FAISS' factory string.
    sample: vectors that it is trained on.
    resident: bytes that all processes of a host that search it share in memory.
    disk: bytes of its file.
    reason: why this one, for people.
  """

  factory: str
  sample: int
  resident: int
  disk: int
  reason: str


def choose(documents: int, dimensions: int, memory: int) -> Plan:
  """The best index whose resident bytes fit into `memory` bytes.

  Raises:
    UserError: if none fits; names the smallest budget that would do.
  """
  flat = described('Flat', documents, dimensions, f'exact: {documents:,} documents are few')
  if documents <= _FLAT_DOCUMENTS and flat.resident <= memory:
    return flat
  lists = f'IVF{_lists(documents)}_HNSW32'
  for codes, words in _CODES:
    factory = codes.format(lists=lists, d=dimensions)
    reason = f'{documents:,} documents in {_lists(documents)} lists, {words}'
    plan = described(factory, documents, dimensions, reason, memory)
    if (plan.disk if words.endswith('in memory') else plan.resident) <= memory:
      return plan
  raise UserError(
    f'no index of {documents:,} documents with {dimensions} dimensions fits into '
    f'--memory={in_words(memory)}: the smallest, {plan.factory}, keeps {in_words(plan.resident)} '
    f'in memory. Give --memory={math.ceil(plan.resident / 2**20)}MiB or more.'
  )


def described(
  factory: str, documents: int, dimensions: int, reason: str, memory: int | None = None
) -> Plan:
  """What the index that `factory` names would need.

  Args:
    factory: FAISS' factory string.
    documents, dimensions: of the vectors.
    reason: of the plan.
    memory: bytes, of which the training sample takes a part; None: no limit.

  Raises:
    UserError: if FAISS does not know such an index.
  """
  try:
    index = faiss.index_factory(dimensions, factory, faiss.METRIC_INNER_PRODUCT)
    resident, refined = _sizes(index, documents)
  except RuntimeError as error:
    raise UserError(
      f'--factory is {factory!r}, which FAISS refuses for {dimensions} dimensions: '
      f'{_cause(error)}. Write one as in its wiki, such as IVF4096_HNSW32,SQ8 or HNSW32,SQ8.'
    ) from None
  ivf = faiss.try_extract_index_ivf(index)
  sample = min(documents, _MOST_POINTS * ivf.nlist if ivf else _MOST_POINTS * 1024)
  if memory is not None:
    sample = max(1, min(sample, memory // _SAMPLE_SHARE // (4 * dimensions)))
  return Plan(factory, sample, resident, resident + refined, reason)


def in_words(count: int) -> str:
  """Bytes for people: '15.4 GiB'."""
  for unit, size in (('GiB', 2**30), ('MiB', 2**20), ('KiB', 2**10)):
    if count >= size:
      return f'{count / size:.1f} {unit}'
  return f'{count} bytes'


def _lists(documents: int) -> int:
  most = min(_LISTS_PER_ROOT * math.sqrt(documents), documents / _LEAST_POINTS)
  return 2 ** max(0, math.floor(math.log2(max(1.0, most))))


def _sizes(index: faiss.Index, documents: int) -> tuple[int, int]:
  """(bytes that a search goes through, bytes of which it reads those of its candidates only)."""
  index = faiss.downcast_index(index)
  if isinstance(index, faiss.IndexRefine):
    resident, _ = _sizes(index.base_index, documents)
    return resident, _sizes(index.refine_index, documents)[0]
  if isinstance(index, faiss.IndexPreTransform):
    chain = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    return _sizes(index.index, documents)[0] + sum(4 * t.d_in * t.d_out for t in chain), 0
  if isinstance(index, faiss.IndexIVF):
    return documents * (index.code_size + _ID_BYTES) + _centres(index), 0
  if isinstance(index, faiss.IndexHNSW):
    return documents * _links(index) + _sizes(index.storage, documents)[0], 0
  return documents * index.sa_code_size(), 0


def _centres(ivf: faiss.IndexIVF) -> int:
  quantizer = faiss.downcast_index(ivf.quantizer)
  links = _links(quantizer) if isinstance(quantizer, faiss.IndexHNSW) else 0
  return ivf.nlist * (4 * ivf.d + links)


def _links(graph: faiss.IndexHNSW) -> int:
  """Bytes of the graph for a node: its neighbours on the lowest level, a little of the others."""
  return 4 * graph.hnsw.nb_neighbors(0) + 16


def _cause(error: RuntimeError) -> str:
  """FAISS' message without the place in its source."""
  return str(error).rsplit('Error: ', 1)[-1].strip().rstrip('.').splitlines()[0]
