"""Tables that a resumed run goes on with."""

from ufogen.training.log import CurveLog, Table


def test_resumed_table_replaces_what_it_repeats(tmp_path):
    path = tmp_path / "work" / "table.csv"
    table = Table(path, resume=False)
    for step in (1, 2, 3):
        table.add(step, {"b": step / 3, "a": 1.0})
    resumed = Table(path, resume=True)
    resumed.add(2, {"a": 5.0, "c": 2.0})
    assert path.read_bytes() == b"update,b,a,c\n1,0.333333,1,\n2,,5,2\n"
    assert [row["a"] for row in resumed.before(2)] == [1]


def test_new_run_forgets_an_older_table(tmp_path):
    path = tmp_path / "table.csv"
    Table(path, resume=False).add(1, {"a": 1.0})
    Table(path, resume=False).add(9, {"a": 2.0})
    assert path.read_text().splitlines() == ["update,a", "9,2"]


def test_constants_stand_beside_the_curves(tmp_path):
    log = CurveLog(tmp_path, {"equilibrium": 1.5}, resume=False)
    log(10, {"loss": 0.25, "aim": 0.5})
    assert (tmp_path / "curves.csv").read_text().splitlines() == ["update,aim,equilibrium,loss", "10,0.5,1.5,0.25"]
