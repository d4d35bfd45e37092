"""Coverage-guided fuzzing of everything that parses bytes from the network.

``python -m tests.fuzz TARGET --runs N`` runs atheris; ``tests/protocol/test_fuzz_corpus.py`` replays the
corpus. What was run, and what came of it, stands in ``docs/fuzzing.md``.
"""
