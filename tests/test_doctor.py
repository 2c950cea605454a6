"""`coophash doctor`: right findings here, and the mend where a part is taken away."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from coophash import _native, doctor


def find(findings, part):
    matching = [f for f in findings if f.part.strip() == part]
    assert len(matching) == 1, [f.part for f in findings]
    return matching[0]


def hide(monkeypatch, *names):
    """Make modules look as if they were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name.split(".")[0] in names else real(name, *rest),
    )


def test_this_machine_is_healthy():
    findings = doctor.examine()
    assert find(findings, "search, compiled").state == "ok"
    assert doctor.healthy(findings)
    runs = {name for name, reason in _native.build_info()["isas"].items() if not reason}
    assert {f.part.strip() for f in findings if f.part.startswith("  ") and f.state == "ok"} == runs
    assert sum(f.detail == "in use" for f in findings) == 1


def test_every_missing_part_has_a_mend():
    for finding in doctor.examine():
        assert (finding.state in ("missing", "broken")) == bool(finding.mend), finding


def test_missing_extras_name_their_command(monkeypatch):
    hide(monkeypatch, "torch", "mlxtend", "jinja2", "matplotlib")
    findings = doctor.examine()
    assert find(findings, "training, torch").mend == 'pip install "coophash[train]"'
    report = find(findings, "extra [report]")
    assert report.state == "missing" and "matplotlib, jinja2 not installed" in report.detail
    assert report.mend == 'pip install "coophash[report]"'
    assert find(findings, "extra [demo]").mend == 'pip install "coophash[demo]"'
    assert doctor.healthy(findings), "search works without any extra"


def test_extension_that_does_not_load(monkeypatch):
    def broken():
        raise ImportError("the compiled part of coophash cannot be loaded (no such file)")

    monkeypatch.setattr(_native, "library", broken)
    findings = doctor.examine()
    finding = find(findings, "search, compiled")
    assert finding.state == "broken" and "no such file" in finding.detail
    assert "pip install" in finding.mend
    assert not doctor.healthy(findings)


@pytest.mark.parametrize(
    ("cuda", "status", "part", "words"),
    [
        (False, "", "search on CUDA, built", "COOPHASH_CUDA=1 pip install"),
        (True, "no NVIDIA driver", "search on CUDA, device", "nvidia-smi"),
    ],
)
def test_cuda_that_is_not_there(monkeypatch, cuda, status, part, words):
    info = {**_native.build_info(), "cuda": cuda, "cuda_reason": "nvcc is not on PATH"}

    class Library:
        build_info = staticmethod(lambda: info)
        cuda_status = staticmethod(lambda: status)

    monkeypatch.setattr(_native, "library", lambda: Library)
    finding = find(doctor.examine(), part)
    assert finding.state == "missing" and words in finding.mend
    assert (status or "nvcc is not on PATH") in finding.detail


def test_cuda_device_is_named(monkeypatch):
    info = {**_native.build_info(), "cuda": True, "nvcc_version": "13.0", "cuda_archs": "90"}

    class Library:
        build_info = staticmethod(lambda: info)
        cuda_status = staticmethod(lambda: "")
        cuda_devices = staticmethod(
            lambda: [
                {"name": "some GPU", "compute_capability": (major, 0), "memory_bytes": 80 * 10**9}
                for major in (8, 12)
            ]
        )
        cuda_try_path = staticmethod(
            lambda path, device: "" if (path, device) == ("mma", 0) else "only 8.0 to 9.0 has them"
        )

    monkeypatch.setattr(_native, "library", lambda: Library)
    findings = doctor.examine()
    finding = find(findings, "search on CUDA, cuda:0")
    assert finding.state == "ok"
    assert finding.detail == "some GPU, 8.0, 80 GB; batches on tensor cores (mma)"
    finding = find(findings, "search on CUDA, cuda:1")
    assert finding.detail.endswith("no tensor cores for batches: only 8.0 to 9.0 has them")


def test_torch_that_does_not_load(monkeypatch):
    real = importlib.import_module

    def load(name, *rest):
        if name == "torch":
            raise OSError("libsomething.so: cannot open\nshared object file")
        return real(name, *rest)

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    finding = find(doctor.examine(), "training, torch")
    assert finding.state == "broken" and "cannot open shared object" in finding.detail


def test_variables_are_shown_and_checked(monkeypatch):
    monkeypatch.setenv("COOPHASH_ISA", "serial")
    monkeypatch.setenv("COOPHASH_BACKEND", "fastest")
    findings = doctor.examine()
    assert find(findings, "COOPHASH_ISA").state == "ok"
    assert find(findings, "serial").detail == "in use"
    wrong = find(findings, "COOPHASH_BACKEND")
    assert wrong.state == "broken" and wrong.mend == "unset COOPHASH_BACKEND"
    assert not doctor.healthy(findings)


def test_text_keeps_commands_whole():
    findings = [
        doctor.Finding("part", "missing", "why " * 60, 'pip install "coophash[train]"'),
        doctor.Finding("other", "ok", "1.0"),
    ]
    text = doctor.render(findings)
    assert '-> pip install "coophash[train]"' in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert text.count("why") == 60


def test_extras_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib")
    root = Path(__file__).resolve().parents[1]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(doctor.EXTRAS) == set(declared) - {"dev", "bench"}
    brought = {"Pillow": "PIL", "faiss-cpu": "faiss", "scikit-learn": "sklearn"}
    for extra, modules in doctor.EXTRAS.items():
        named = [r.split(";")[0].split(">")[0].strip() for r in declared[extra]]
        wanted = {brought.get(n, n) for n in named if not n.startswith(("coophash", "tomli"))}
        assert wanted == set(modules), extra


def run_without(modules, *arguments):
    """Run Python where these modules cannot be imported, as in an install without extras."""
    program = (
        "import sys, importlib.util\n"
        f"gone = {set(modules)!r}\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in gone: raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, p=None: None if n in gone else find(n, p)\n"
        "import runpy\n"
        f"sys.argv = {['coophash', *arguments[1:]]!r}\n"
        f"runpy.run_module({arguments[0]!r}, run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


EVERYTHING = ("torch", "typer", "rich", "tqdm", "matplotlib", "jinja2", "PIL", "mlxtend", "scipy",
              "safetensors", "faiss", "ray", "triton")  # fmt: skip


def test_works_with_numpy_alone():
    done = run_without(EVERYTHING, "coophash.doctor")
    assert done.returncode == 0, done.stderr
    assert '-> pip install "coophash[train]"' in done.stdout
    assert '-> pip install "coophash[cli]"' in done.stdout


@pytest.mark.parametrize("absent", ["typer", "rich"])
def test_command_line_without_its_extra_says_so(absent):
    done = run_without([absent], "coophash", "doctor")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert f"needs {absent}" in done.stderr and 'pip install "coophash[cli]"' in done.stderr
    assert "python -m coophash.doctor" in done.stderr
