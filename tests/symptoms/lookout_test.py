import dataclasses

from salt_jax.symptoms.lookout import FIELD, Lookout
from salt_jax.symptoms.watch import Watch
from tests.symptoms.made_records import STAGES, good_run


def test_what_was_warned_of_is_not_again_after_a_resume(caplog):
    records = good_run(val_teacher_loss=4.0)
    lookout, kept = Lookout(Watch(), STAGES), []
    for record in records[:30]:  # To step 120; the teacher is weak from 100 to 200.
        kept.append(record | lookout.see(record))
    assert len(caplog.messages) == 1
    resumed = Lookout(Watch(), STAGES, records=kept)
    assert [x for r in records[30:] for x in resumed.see(r)] == []
    # Resumed from before the warning, it is found at the same record.
    place = next(i for i, r in enumerate(kept) if any(FIELD in name for name in r))
    again = Lookout(Watch(), STAGES, records=kept[:place])
    assert again.see(records[place]) == {
        name: line for name, line in kept[place].items() if FIELD in name
    }


def test_what_was_found_before_a_stage_is_not_said_again_after_a_resume(caplog):
    lookout = Lookout(Watch(), STAGES)
    lookout.expect("distill", "starved_domain", "it starves")
    records = good_run()[:2]
    kept = [record | lookout.see(record) for record in records]
    assert [r.get("warning_starved_domain") for r in kept] == ["it starves", None]
    resumed = Lookout(Watch(), STAGES, records=kept)
    resumed.expect("distill", "starved_domain", "it starves")
    assert resumed.see(good_run()[2]) == {}
    assert sum("it starves" in line for line in caplog.messages) == 1


def test_a_long_history_is_looked_at_more_rarely():
    looks = []

    @dataclasses.dataclass(frozen=True)
    class Counting:
        name: str = "counting"

        def look(self, history):
            looks.append(history.step)

    lookout = Lookout(Watch(also=(Counting(),)), STAGES[:1])
    for step in range(1, 3001):
        lookout.see({"step": step, "stage": "distill", "loss": 1.0})
    assert looks[:100] == list(range(1, 101))
    assert 100 < len(looks) < 400 and looks[-1] > 2900


def test_a_users_detector_is_asked_too(caplog):
    @dataclasses.dataclass(frozen=True)
    class Explodes:
        name: str = "explodes"

        def look(self, history):
            norms = history.series("grad_norm")
            return "it explodes" if len(norms) and norms.values[-1] > 9 else None

    lookout = Lookout(Watch(also=(Explodes(),)), STAGES)
    record = {"step": 5, "stage": "distill", "loss": 1.0, "grad_norm": 10.0}
    assert lookout.see(record) == {"warning_explodes": "it explodes"}
    assert "Stage 'distill', step 5: it explodes" in caplog.text
