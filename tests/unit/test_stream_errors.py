"""What a user is told when something fails in one of Ray's workers."""

from __future__ import annotations

import pickle

from ray.data.exceptions import SystemException
from ray.exceptions import ActorDiedError, RayTaskError

from galaxray.errors import RunError
from pipelines.stream import _explain


def as_ray_raises(error: Exception) -> RayTaskError:
    """As it comes out of a worker: within an exception that is of both types, and whose text is a traceback."""
    sent = pickle.loads(pickle.dumps(error))
    return RayTaskError("map", "Traceback (most recent call last):\n  File ...\nRunError", sent).as_instanceof_cause()


def test_an_error_of_ours_is_told_in_its_own_words():
    error = as_ray_raises(RunError("/disk: No space left on device; make room there"))
    assert isinstance(error, RunError)
    assert _explain(error) == "/disk: No space left on device; make room there"


def test_of_any_other_error_the_first_line_is_told():
    told = _explain(as_ray_raises(ValueError("no such thing\nand more")))
    assert told.startswith("a worker failed with ValueError: no such thing. What is written is kept")


def test_the_cause_of_an_error_of_ours_is_not_told_in_its_place():
    error = RunError("/disk: in words")
    error.__cause__ = OSError(28, "No space left on device")
    assert _explain(error) == "/disk: in words"


def test_of_a_worker_that_could_not_be_started_the_reason_is_told():
    error = ActorDiedError(
        RayTaskError("__init__", "Traceback (most recent call last):\n  File ...\nWeightsError: w cannot be read", None)
    )
    error.__cause__ = SystemException()
    told = _explain(error)
    assert told.startswith("a worker could not be started: WeightsError: w cannot be read. What is written")


def test_of_a_worker_that_died_it_is_told_that_it_did():
    error = ActorDiedError()
    error.__cause__ = SystemException()  # as Ray Data raises what is no fault of the user's code
    assert _explain(error).startswith("a worker failed with ActorDiedError: The actor died")
