"""The README's example runs as printed, with fewer updates."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert code.count("updates=300") == 1
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    exec(compile(code.replace("updates=300", "updates=2"), "README.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out) <= 1


def test_every_file_that_it_names_is_there():
    named = set(re.findall(r"`((?:coophash|kernels|csrc|docs)/[\w/.]*)`", README.read_text()))
    assert len(named) > 5
    for name in named:
        assert (README.parent / name).exists(), name
