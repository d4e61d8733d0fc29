from salt_jax.storage.retention import Retention


def test_the_latest_the_best_and_the_named_are_kept():
    keeps = Retention(every=10, max_to_keep=2, keep_steps=(10,))
    steps = [10, 20, 30, 40, 50]
    assert keeps.superfluous(steps, {20: 1.0, 30: 2.0, 50: 1.5, 40: None}) == [30]
    assert keeps.superfluous(steps, {}) == [20, 30]
    assert keeps.superfluous(steps, {20: 1.0, 30: 1.0}) == [30]


def test_one_more_than_is_kept_is_on_disk_while_it_is_written():
    keeps = Retention(every=10, max_to_keep=2, keep_steps=(10, 15))
    assert keeps.most_at_once(measured=False) == 5
    assert keeps.most_at_once(measured=True) == 6
