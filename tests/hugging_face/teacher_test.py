"""A model from Hugging Face teaches: from its folder to a trained student."""

import json
import re

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from salt_jax import gin_config
from salt_jax.data.reading.loader import Loader
from salt_jax.main import main
from salt_jax.training.program import Program
from salt_jax.training.stage_inputs import StageInputs
from tests import command_files

_SPECIAL = ("<padding>", "<end>", "<begin>")
_WORDS = "the small model helps a large one first and then it leaves ."
_IMPORTED = "@imported/model.TransformerConfig()"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder as people download it: a random tiny Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([_WORDS] * 50, 300, special_tokens=list(_SPECIAL))
    padding, end, begin = _SPECIAL
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=padding,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(llama, tmp_path_factory):
    """The folder of a run that the Llama taught, by the commands that a user gives."""
    folder = tmp_path_factory.mktemp("run")
    command_files.write_files(folder)
    teacher = folder / "teacher"
    assert main(["import", f"--from={llama}", f"--output={teacher}"]) == 0
    named = [f"--gin.VOCABULARY='{teacher}/vocabulary.json'"]
    prepare = [f"--gin_file={folder}/prepare.gin", *named]
    assert main(prepare) == 0
    assert main(_salt(folder)) == 0
    return folder


def _salt(folder):
    """Writes SALT with the Llama as its teacher; returns how to train it."""
    text = (folder / "salt.gin").read_text()
    slm = text.index("slm/model.TransformerConfig:")
    end = text.index("llm/model.TransformerConfig:", slm + 1)
    # The teacher's shape is what `import` wrote for including.
    included = f"include '{folder}/teacher/model.gin'\n"
    text = text[:slm] + included + text[end:]
    text = re.sub("TEACHER_MODEL = .*", f"TEACHER_MODEL = {_IMPORTED}", text)
    (folder / "taught.gin").write_text(text)
    return [
        f"--gin_file={folder}/taught.gin",
        f"--workdir={folder}/taught",
        f"--gin.VOCABULARY='{folder}/teacher/vocabulary.json'",
        "--gin.SELECTION=None",
        "--gin.llm/model.TransformerConfig.vocab_size=304",
    ]


@pytest.mark.slow
def test_a_llama_from_hugging_face_teaches_in_the_first_stage_and_then_leaves(trained):
    lines = (trained / "taught" / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if "loss" in record]
    assert [("kl" in step) for step in steps] == [True] * 3 + [False] * 3
    assert all(np.isfinite(step["loss"]) for step in steps)


@pytest.mark.slow
def test_its_soft_labels_are_those_that_transformers_computes(trained, llama):
    options = [x.removeprefix("--gin.") for x in _salt(trained) if "--gin." in x]
    experiment = gin_config.load([str(trained / "taught.gin")], options)
    program = Program.on(experiment)
    stage = experiment.stages[0]
    loader = Loader(
        stage.data,
        batch_size=experiment.batch_size,
        seq_len=experiment.seq_len,
        seed=experiment.seed,
        partitioning=program.partitioning,
    )
    batch = loader.host_batch(0)
    is_first_document = batch.segments_BL == 1
    params = StageInputs.open(program, stage).load_teacher(program)
    read = program.teacher(stage.distillation).apply(params, loader.device_batch(0))
    ours_BLV = np.asarray(read.logits())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        theirs_BLV = theirs(torch.tensor(np.asarray(batch.tokens_BL))).logits.numpy()
    # Of the first document of each row: what comes before another is hidden from it.
    np.testing.assert_allclose(
        ours_BLV[is_first_document], theirs_BLV[is_first_document], atol=2e-5
    )
    begins_BL = (batch.positions_BL == 0) & (batch.segments_BL > 0)
    assert set(batch.tokens_BL[begins_BL].tolist()) == {_SPECIAL.index("<begin>")}
