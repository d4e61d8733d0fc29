import dataclasses
import shutil

import jax
import pytest

from salt_jax import config
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.reading.mixture import PreparedMixture
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.train import train
from salt_jax.training import resumption
from tests import runs


@pytest.fixture
def begun(tmp_path):
    """A run that was broken off in its first stage, its files and its folder."""
    files, workdir = tmp_path / "files", tmp_path / "run"
    runs.make_files(files)
    runs.train_until(3, runs.experiment(files), workdir)
    return files, workdir


def prepare_again(files, **changes):
    """Puts other sequences where those of the run were."""
    shutil.rmtree(files / "data")
    preparation = Preparation(
        corpus=str(files / "corpus"),
        vocabulary=runs.VOCABULARY,
        output=str(files / "data"),
        seq_len=runs.SEQ_LEN,
    )
    prepare(dataclasses.replace(preparation, **changes))


def test_a_field_that_changed_is_refused_until_it_is_accepted(tmp_path):
    before = {"experiment": config.as_json(runs.experiment(tmp_path))}
    now = runs.experiment(tmp_path, seed=5)
    with pytest.raises(ValueError, match=r"seed.*--accept_change=seed"):
        resumption.check_experiment(now, before, ["batch_size"])
    resumption.check_experiment(now, before, ["seed"])
    resumption.check_experiment(now, {}, [])


@pytest.mark.slow
def test_the_same_data_prepared_again_is_the_same_data(begun):
    files, workdir = begun
    prepare_again(files)
    assert int(train(runs.experiment(files), workdir).step) == runs.TOTAL_STEPS


@pytest.mark.slow
def test_other_data_at_the_same_path_is_refused_until_it_is_accepted(begun):
    files, workdir = begun
    prepare_again(files, seed=1)
    experiment = runs.experiment(files)
    message = r"data\.distill, data\.standard .*--accept_change=data\.distill"
    with pytest.raises(ValueError, match=message):
        train(experiment, workdir)
    names = ["data.distill", "data.standard"]
    state = train(experiment, workdir, accepted_changes=names)
    assert int(state.step) == runs.TOTAL_STEPS


@pytest.mark.slow
def test_another_teacher_at_the_same_path_is_refused(begun):
    files, workdir = begun
    shutil.rmtree(files / "teacher")
    runs.make_teacher(files / "teacher", seed=2)
    with pytest.raises(ValueError, match=r"teacher\.distill .*fingerprint \w{12}"):
        train(runs.experiment(files), workdir)


@pytest.fixture(scope="module")
def prepared_texts(tmp_path_factory):
    """The same corpus prepared twice, in two orders."""
    folder = tmp_path_factory.mktemp("prepared_texts")
    runs.make_corpus(folder / "corpus")
    for seed in (0, 1):
        prepare(
            Preparation(
                corpus=str(folder / "corpus"),
                vocabulary=runs.VOCABULARY,
                output=str(folder / f"data-{seed}"),
                seq_len=runs.SEQ_LEN,
                seed=seed,
            )
        )
    return [
        PreparedText(path=f"{folder}/data-{i}", vocabulary=runs.VOCABULARY)
        for i in (0, 1)
    ]


@dataclasses.dataclass(frozen=True)
class First:
    """Keeps the first sequences."""

    count: int

    def select(self, dataset):
        return jax.numpy.arange(self.count)


def fingerprint(data):
    return data.open_rows(seq_len=runs.SEQ_LEN, seed=0).fingerprint()


def test_data_is_known_by_its_sequences_and_what_is_selected_of_them(prepared_texts):
    one, other = prepared_texts
    some = dataclasses.replace(one, selection=First(8))
    fewer = dataclasses.replace(one, selection=First(7))
    both = PreparedMixture(parts=(one, other), weights=(1, 1))
    swapped = PreparedMixture(parts=(other, one), weights=(1, 1))
    found = [fingerprint(data) for data in (one, other, some, fewer, both, swapped)]
    assert len(set(found)) == 6
    assert fingerprint(dataclasses.replace(some)) == found[2]


def test_inputs_of_a_new_run_or_of_a_new_stage_are_accepted():
    resumption.check_inputs({"data.distill": "a"}, {}, [])
    resumption.check_inputs({"data.distill": "a"}, {"inputs": {}}, [])


def test_a_part_of_a_model_that_changed_is_refused_by_name(tmp_path):
    experiment = runs.experiment(tmp_path)
    meta = {"experiment": config.as_json(experiment)}
    resumption.check_experiment(experiment, meta, [])
    for name, value in ("qk_norm", True), ("norm_eps", 1e-5):
        model = dataclasses.replace(experiment.model, **{name: value})
        other = dataclasses.replace(experiment, model=model)
        with pytest.raises(ValueError, match=rf" model\.{name}"):
            resumption.check_experiment(other, meta, [])
