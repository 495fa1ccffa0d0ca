from flyball.records.repeats import Repeats


def test_only_repeatable_ids_are_remembered():
    repeats = Repeats()
    assert [repeats.again(each) for each in ("0a", "0a", "x1", "x1", "x1#1", "x1#1", "x2")] == [
        False, False, False, True, False, True, False,
    ]  # fmt: skip


def test_the_oldest_are_forgotten_first():
    repeats = Repeats(most=2)
    assert [repeats.again(each) for each in ("x1", "x2", "x3", "x2", "x1")] == [False, False, False, True, False]
