import dataclasses
import shlex

import gin
import jax
import pytest

from salt_jax import config, gin_config
from salt_jax.compiling import search as module
from salt_jax.compiling.search import Choice, Found, search, table
from salt_jax.compiling.topology import Topology
from salt_jax.files.changes import changed_fields
from tests import command_files, runs

CHOICE = Choice(remat="save_dots", num_microbatches=2, loss_chunk_tokens=256, model=4)


@pytest.fixture
def here():
    return Topology("here", 1, jax.devices())


@pytest.fixture
def compiled(monkeypatch):
    """Notes what is compiled, and says that 4 microbatches of any policy fit."""
    choices = []

    def pretend(choice, experiment, topology):
        assert experiment == choice.of(experiment)
        choices.append(choice)
        fits = choice.num_microbatches >= 2 and choice.remat != "none"
        flops = module._by_flops(experiment).index(choice.remat)
        peak = topology.available * (0.5 if fits else 1.5)
        return Found(choice=choice, flops=flops, peak=int(peak), fits=fits)

    monkeypatch.setattr(module, "_compiled", pretend)
    return choices


def test_overrides_make_the_choice_when_they_are_pasted(tmp_path):
    command_files.write_files(tmp_path)
    files = [f"{tmp_path}/salt.gin"]
    before = gin_config.load(files)
    overrides = [
        part.removeprefix("--gin.") for part in shlex.split(CHOICE.overrides())
    ]
    pasted = gin_config.load(files, overrides)
    gin.clear_config()
    chosen = CHOICE.of(before)
    for name in ("model", "mesh", "num_microbatches", "loss_chunk_tokens"):
        assert getattr(pasted, name) == getattr(chosen, name) != getattr(before, name)
    # A teacher has no backward pass, whatever its own policy says.
    changed = changed_fields(config.as_json(chosen), config.as_json(pasted))
    assert changed == ["stages.0.distillation.teacher.remat"]


@pytest.mark.slow
def test_a_search_goes_from_few_flops_to_more_and_leaves_a_group_that_fits(
    here, compiled, tmp_path
):
    found = search(runs.experiment("/nowhere", batch_size=64), here, tmp_path, 100)
    remats = list(dict.fromkeys(choice.remat for choice in compiled))
    assert remats == module._by_flops(runs.experiment("/nowhere"))
    for group in {(choice.remat, choice.model) for choice in compiled}:
        tried = [x.num_microbatches for x in compiled if (x.remat, x.model) == group]
        fits = [count >= 2 for count in tried]
        # Once it fits, what has more microbatches only costs more.
        assert group[0] == "none" or (fits[-1] and not any(fits[:-1]))
    # Of the same memory, what has the fewest FLOPs beats the others.
    assert [one.flops for one in found] == [1]
    assert found[0].choice.num_microbatches >= 2


def test_a_search_stops_after_so_many_compilations_and_goes_on_from_its_file(
    here, compiled, tmp_path
):
    experiment = runs.experiment("/nowhere", batch_size=64)
    search(experiment, here, tmp_path, 2)
    assert len(compiled) == 2
    search(experiment, here, tmp_path, 3)
    assert len(compiled) == 5 and len(set(compiled)) == 5
    other = dataclasses.replace(experiment, seq_len=32)
    search(other, here, tmp_path, 1)
    assert compiled[5] == compiled[0]  # Of another experiment nothing is known.


def test_what_is_beaten_in_flops_and_memory_is_left_out(here):
    def found(flops, peak, fits=True):
        return Found(choice=CHOICE, flops=flops, peak=peak, fits=fits)

    done = [found(3, 30), found(1, 50), found(2, 50), found(4, 40), found(1, 10, False)]
    assert module._frontier(done) == [found(1, 50), found(3, 30)]
    lines = table(module._frontier(done), here).splitlines()
    assert len(lines) == 4 and CHOICE.overrides() in lines[1]
    assert "--search=N" in table([], here)
