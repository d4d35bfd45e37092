"""``python -m tests.fuzz TARGET [--runs N] [--seconds S]``: atheris over one target.

New inputs go into ``--corpus`` (a directory of the caller's); the seeds of the tree are only read. A finding
ends the run, with the input in a file. The statistics at the end are those of the table in docs/fuzzing.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

SEEDS = Path(__file__).parent / "corpus"


def main() -> None:
    """Parse the options, instrument what parses, and hand over to libFuzzer."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: .venv/bin/pip install 'atheris>=2.3'")
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=("dhcp", "dns", "http", "tftp"))
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix=f"bramble-fuzz-{options.target}-"))
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["pxe", "fleet", "dnslib"]):
        from tests.fuzz.targets import TARGETS
    arguments = [
        sys.argv[0],
        f"-runs={options.runs}",
        f"-max_total_time={options.seconds}",
        "-max_len=1500",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        f"-artifact_prefix={corpus}/finding-",
        str(corpus),
        str(SEEDS / options.target),
    ]
    atheris.Setup(arguments, TARGETS[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
