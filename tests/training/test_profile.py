"""A trace is there when its steps were made, and a loop that ends earlier is no accident."""

import jax
import jax.numpy as jnp
import pytest

from hamflow.training import Profile, check_profile_steps


def loop(profile, num_steps):
    x = jnp.ones(8)
    with profile:
        for _ in range(num_steps):
            profile(x)
            x = jnp.sin(x)
    return profile.outcome


def traces(folder):
    return sorted(path.suffixes[-1] for path in folder.rglob("*") if path.is_file())


def test_the_steps_asked_for_are_traced(tmp_path):
    assert loop(Profile(tmp_path / "profile", "1:3"), 5) == f"{tmp_path / 'profile'}: a trace of 2 steps"
    assert ".pb" in traces(tmp_path / "profile")


def test_a_loop_that_ends_earlier_ends_the_trace(tmp_path):
    assert loop(Profile(tmp_path / "profile", "1:30"), 2) == f"{tmp_path / 'profile'}: a trace of 1 step"
    assert ".pb" in traces(tmp_path / "profile")


def test_a_loop_that_ends_before_it_says_so(tmp_path):
    said = loop(Profile(tmp_path / "profile", "10:20"), 3)
    assert said == "no trace: the loop ended after 3 steps, and 10:20 was asked for"
    assert not (tmp_path / "profile").exists()


def test_an_error_in_the_loop_ends_the_trace(tmp_path):
    def broken():
        with Profile(tmp_path, "0:9") as profile:
            profile()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    jax.profiler.start_trace(tmp_path / "another")  # would be refused if one were going on
    jax.profiler.stop_trace()


def test_nothing_asked_for_is_nothing_done(tmp_path):
    assert loop(Profile(tmp_path, None), 3) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "steps", ["10", "20:10", "5:5", "0:0", "a:b", "foo", "-1:3", "1:-3", "1:2:3", "1.5:2", ":", ":5", "5:", " ", "٣:٥"]
)
def test_steps_that_cannot_be_read(tmp_path, steps):
    said = f"steps is '{steps}': two whole numbers as in 10:20"
    with pytest.raises(ValueError, match=said):
        check_profile_steps(steps)  # and no folder is named
    with pytest.raises(ValueError, match=said):
        Profile(tmp_path, steps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "read"), [("10:20", (10, 20)), (" 0 : 1 ", (0, 1)), ("007:08", (7, 8)), (None, None), ("", None)]
)
def test_steps_that_can_be_read(steps, read):
    assert check_profile_steps(steps) == read
