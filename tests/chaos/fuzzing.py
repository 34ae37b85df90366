"""Feed damaged and hostile input to what reads other people's files; run as a program, so that a crash is seen.

``python -m tests.chaos.fuzzing TARGET --cases 1000 --seed 7 --input FILE`` runs one target. Each case is written to
``--input`` before it is tried: whatever ends this process (a crash in a decoder written in C, a hang, too much memory),
the file holds its cause, and ``--replay FILE`` tries it alone.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from galaxray.errors import GalaxrayError

CASE_DEADLINE_S = 60.0  # of one case, on a machine that does other things too; they take milliseconds
MAX_GROWTH_BYTES = 768 * 2**20
"""How much the process may grow over all cases: what a reader may hold at once, and the allocator's waste."""
MAX_ADDRESS_BYTES = 16 * 2**30  # of which threads reserve much

Target = Callable[[bytes], str]
"""Tries one input and says in a word what came of it; raises what a user must never see."""

INTERESTING_BYTES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", b'"', b"'", b",", b"<", b"&", b"=", b"#", b"\x1b[31m")
INTERESTING_BYTES += (
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x00" * 8,
    b"\xff\xda",
    b"\xff\xd9",
)
INTERESTING_NUMBERS = (b"0", b"-1", b"1", b"65536", b"2147483647", b"4294967296", b"-2147483649", b"1e999", b"nan")
INTERESTING_NUMBERS += (b"9" * 18, b"9" * 40, b"-9999", b"8", b"3")

_mutations = st.lists(
    st.tuples(
        st.sampled_from(("overwrite", "insert", "delete", "repeat", "number", "number", "flip", "cut", "splice")),
        st.integers(0, 2**20),
        st.integers(0, 2**12),
        st.one_of(st.sampled_from(INTERESTING_BYTES), st.binary(max_size=8)),
    ),
    min_size=1,
    max_size=6,
)


def mutants(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Valid files with a few things changed in them."""

    def mutate(index: int, mutations: list[tuple[str, int, int, bytes]]) -> bytes:
        content = seeds[index % len(seeds)]
        for mutation in mutations:
            content = _mutate(content, seeds, *mutation)
        return content

    return st.builds(mutate, st.integers(0, len(seeds) - 1), _mutations)


def _mutate(content: bytes, seeds: list[bytes], kind: str, place: int, size: int, piece: bytes) -> bytes:
    if not content:
        return piece
    at = place % len(content)
    match kind:
        case "overwrite":
            return content[:at] + piece + content[at + len(piece) :]
        case "insert":
            return content[:at] + piece + content[at:]
        case "delete":
            return content[:at] + content[at + size % 64 + 1 :]
        case "repeat":
            return content[:at] + content[at : at + 80] * (size % 40) + content[at:]
        case "flip":
            return content[:at] + bytes([content[at] ^ (1 << size % 8)]) + content[at + 1 :]
        case "cut":
            return content[:at]
        case "splice":
            other = seeds[size % len(seeds)]
            return content[:at] + other[place % (len(other) + 1) :]
        case _:  # the next number written in digits
            start = next((i for i in range(at, len(content)) if content[i : i + 1].isdigit()), None)
            if start is None:
                return content
            end = next((i for i in range(start, len(content)) if not content[i : i + 1].isdigit()), len(content))
            number = INTERESTING_NUMBERS[size % len(INTERESTING_NUMBERS)]
            if content[end : end + 1] == b" ":  # cards of FITS keep their width
                return content[: max(0, end - len(number))] + number + content[end:] if end >= len(number) else content
            return content[:start] + number + content[end:]


class Watch:
    """Bounds of time and memory; what breaks them is written where the parent looks for it."""

    def __init__(self, input_file: Path) -> None:
        self._file = input_file
        self._base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.outcomes: Counter[str] = Counter()
        resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))

    def run(self, target: Target, content: bytes) -> None:
        """Try one input within the bounds."""
        self._file.write_bytes(content)
        # A thread in C: it ends the process also where a decoder hangs and never gives the interpreter back.
        faulthandler.dump_traceback_later(CASE_DEADLINE_S, exit=True)
        try:
            outcome = target(content)
        except GalaxrayError as error:
            _require_one_line(error)
            outcome = type(error).__name__
            cause: BaseException | None = error
            while cause is not None:
                assert not isinstance(cause, MemoryError), "ran out of memory, and called it an error of the input"
                cause = cause.__cause__ or cause.__context__
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.outcomes[outcome] += 1
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self._base
        assert growth < MAX_GROWTH_BYTES, f"grew by {growth / 2**20:.0f} MiB over an input of {len(content)} bytes"


def _require_one_line(error: GalaxrayError) -> None:
    text = str(error)
    assert text, "an error says nothing"
    assert text.isprintable(), f"an error is to be one line that a terminal can show: {text!r}"
    assert len(text) < 5000, "an error goes on for pages"


def fuzz(strategy: st.SearchStrategy[bytes], target: Target, *, cases: int, random_seed: int, watch: Watch) -> None:
    """Try so many inputs; the first that fails is raised, made as small as hypothesis can."""

    @seed(random_seed)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        # Shrinking would go on after a failure for minutes, and in the end the smallest input is the one in the file.
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def attempt(content: bytes) -> None:
        watch.run(target, content)

    attempt()


def main() -> int:
    """Run one target; exit status 0 if every case ended well."""
    from tests.chaos.fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", type=Path, required=True, help="where to keep the case that is being tried")
    parser.add_argument("--replay", type=Path, help="try this input, and no other")
    arguments = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")  # of astropy and Pillow, about files that they read all the same
    strategy, target = TARGETS[arguments.target]()
    if arguments.replay:
        Watch(arguments.input).run(target, arguments.replay.read_bytes())
        return 0
    watch = Watch(arguments.input)
    fuzz(strategy, target, cases=arguments.cases, random_seed=arguments.seed, watch=watch)
    tried = watch.outcomes.total()
    print(f"{tried} cases:", ", ".join(f"{name} {count}" for name, count in watch.outcomes.most_common()))
    return 0 if tried >= arguments.cases else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
