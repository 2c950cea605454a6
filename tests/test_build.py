"""The compiled extension: what it depends on, what it says of itself, how setup.py chooses."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coophash import _native

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = Path(_native.library().__file__)

needs_sources = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="not a checkout: the sources are not here"
)


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_importing_needs_no_torch():
    done = run_python("import coophash, sys; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_the_library_depends_on_no_cuda_and_no_torch():
    ldd = shutil.which("ldd")
    if not ldd:
        pytest.skip("no ldd")
    done = subprocess.run([ldd, str(LIBRARY)], capture_output=True, text=True, check=True)
    # Without the addresses: one in a few hundred has "c10" in it.
    needed = "\n".join(line.split(" (0x")[0] for line in done.stdout.splitlines())
    assert "libstdc++" in needed
    for other in ("cudart", "torch", "c10", "libcuda", "libgomp", "libpython"):
        assert other not in needed


def test_nothing_but_the_module_is_exported():
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("no nm")
    done = subprocess.run(
        [nm, "-D", "--defined-only", str(LIBRARY)], capture_output=True, text=True
    )
    names = [line.split()[-1] for line in done.stdout.splitlines()]
    assert "PyInit__C" in names
    assert not [name for name in names if "coophash" in name or "cuda" in name]


def test_build_info_is_complete():
    info = _native.build_info()
    assert set(info["isas"]) == set(_native.ISAS)
    assert info["isas"]["serial"] == ""
    assert info["version"] and info["compiler"].split()[0] in ("gcc", "clang")
    if info["cuda"]:
        assert info["nvcc_version"] and "ptx" in info["cuda_archs"] and not info["cuda_reason"]
    else:
        assert info["cuda_reason"]


def test_without_a_gpu_the_status_says_why_and_nothing_fails():
    library = _native.library()
    status = library.cuda_status()
    assert isinstance(status, str)
    assert bool(status) == (library.cuda_devices() == [])


def test_the_extension_refuses_what_would_read_outside_an_array():
    import numpy as np

    library = _native.library()
    codes = np.zeros((5, 8), np.uint8)
    ids, words = np.zeros(4, np.int64), np.zeros(2, np.uint64)
    for spans, width in [
        ([(codes, None, 0, None)], 7),
        ([(codes[0], None, 0, None)], 8),
        ([(codes, ids, 0, None)], 8),
        ([(codes, None, 0, words)], 8),
        ([(codes, None, 0, None)], 0),
        ([(codes, None, 0, None)], 513),
    ]:
        with pytest.raises(ValueError, match="must be"):
            library.topk(spans, width, True, codes, 1, 1, "")
    with pytest.raises(ValueError, match="queries must be"):
        library.topk([(codes, None, 0, None)], 8, True, codes[:, :4].copy(), 1, 1, "")
    with pytest.raises(TypeError):
        library.topk([(codes, None, 0, None)], 8, True, codes.astype(np.int64), 1, 1, "")


@needs_sources
class TestSetup:
    @pytest.fixture
    def setup_py(self, monkeypatch):
        import setuptools

        monkeypatch.setattr(setuptools, "setup", lambda **_: None)
        spec = importlib.util.spec_from_file_location("coophash_setup", ROOT / "setup.py")
        module = importlib.util.module_from_spec(spec)
        before = Path.cwd()
        spec.loader.exec_module(module)
        os.chdir(before)
        return module

    @pytest.fixture
    def fake_nvcc(self, tmp_path, monkeypatch):
        """A compiler driver as a wrapper script, with its runtime in lib, not lib64."""

        def make(
            codes="sm_70 sm_75 sm_80 sm_86 sm_87 sm_90 sm_100 sm_110 sm_103 sm_120",
            runtime=True,
            compiles=True,
            release="13.0",
        ):
            root = tmp_path / f"cuda-{release}"
            (root / "lib").mkdir(parents=True)
            if runtime:
                (root / "lib" / "libcudart_static.a").write_bytes(b"")
            script = tmp_path / f"nvcc-{release}"
            script.write_text(
                "#!/bin/sh\n"
                'case "$*" in\n'
                f"*--version*) echo 'Cuda compilation tools, release {release}, V{release}.88';;\n"
                f"*--list-gpu-code*) printf '%s\\n' {codes};;\n"
                f'*--dryrun*) echo "#$ TOP={root}/bin/.."; '
                f'echo \'#$ LIBRARIES=  "-L{root}/lib/stubs" "-L{root}/lib"\';;\n'
                f"*) {'touch' if compiles else 'echo no such architecture; false'};;\n"
                "esac\n"
            )
            script.chmod(script.stat().st_mode | stat.S_IEXEC)
            (root / "bin").mkdir()
            monkeypatch.setenv("NVCC", str(script))
            return root

        monkeypatch.delenv("COOPHASH_CUDA_ARCHS", raising=False)
        monkeypatch.delenv("COOPHASH_CUDA", raising=False)
        return make

    def test_the_runtime_is_found_behind_a_wrapper(self, setup_py, fake_nvcc):
        root = fake_nvcc()
        nvcc = setup_py.Nvcc()
        assert nvcc.runtime == root / "lib" / "libcudart_static.a"
        assert nvcc.version == "13.0.88"

    def test_architectures(self, setup_py, fake_nvcc, monkeypatch):
        every = ["75", "80", "86", "87", "90", "100", "103", "110", "120"]
        fake_nvcc(release="13.2")
        assert setup_py.Nvcc().archs == [arch for arch in every if arch != "103"]
        fake_nvcc()
        nvcc = setup_py.Nvcc()
        assert nvcc.archs == every
        command = " ".join(nvcc.compile_command(Path("a.cu"), Path("a.o")))
        # PTX is made once a generation, and that of the newest is kept
        for ptx, code in (("80", "80"), ("80", "87"), ("100", "103"), ("110", "110"), ("75", "75")):
            assert f"arch=compute_{ptx},code=sm_{code}" in command
        assert "arch=compute_120,code=compute_120" in command
        for text in ("90, 80", "80;90", " 90 80 90;"):
            monkeypatch.setenv("COOPHASH_CUDA_ARCHS", text)
            assert setup_py.Nvcc().archs == ["80", "90"]
        nvcc = setup_py.Nvcc()
        command = " ".join(nvcc.compile_command(Path("a.cu"), Path("a.o")))
        assert nvcc.archs == ["80", "90"]
        assert "arch=compute_80,code=sm_80" in command
        assert "arch=compute_90,code=compute_90" in command
        host = " ".join(nvcc.compile_command(Path("a.cpp"), Path("a.o"), "none"))
        assert "-gencode" not in host
        own = " ".join(nvcc.compile_command(Path("wgmma.cu"), Path("a.o"), "90a"))
        assert own.count("-gencode") == 1 and "arch=compute_90a,code=sm_90a" in own
        assert "-DCOOPHASH_WGMMA_BUILT" in own
        monkeypatch.setenv("COOPHASH_CUDA_ARCHS", "80")
        nvcc = setup_py.Nvcc()  # without 90 the source is there, with no code for tensor cores
        own = " ".join(nvcc.compile_command(Path("wgmma.cu"), Path("a.o"), "90a"))
        assert "sm_80" in own and "90a" not in own and "BUILT" not in own
        monkeypatch.setenv("COOPHASH_CUDA_ARCHS", "60")
        with pytest.raises(SystemExit, match="60 not among those of nvcc"):
            setup_py.Nvcc()

    def builder(self, setup_py, tmp_path):
        from setuptools import Distribution

        build = setup_py.Build(Distribution())
        build.folder = tmp_path
        return build

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            ({"runtime": False}, "libcudart_static.a is in none of"),
            ({"compiles": False}, "nvcc 13.0.88 could not compile it"),
            (None, "nvcc-that-is-not-there is not on PATH"),
        ],
    )
    def test_auto_falls_back_with_the_reason_and_1_fails(
        self, setup_py, fake_nvcc, monkeypatch, tmp_path, state, reason
    ):
        if state is None:
            monkeypatch.setenv("NVCC", "nvcc-that-is-not-there")
            which = shutil.which
            monkeypatch.setattr(shutil, "which", lambda n: None if "nvcc" in n else which(n))
        else:
            fake_nvcc(**state)
        build = self.builder(setup_py, tmp_path)
        monkeypatch.setattr(build.distribution, "get_version", lambda: "0")
        said: list[str] = []
        monkeypatch.setattr(setup_py, "announce", said.append)
        with ThreadPoolExecutor(2) as pool:
            built, _, nvcc, why = build._cuda(pool)
        assert not built and nvcc is None and reason in why
        build._write_build_info(nvcc, why)
        assert said == [f"coophash: built without CUDA: {why}\n"]
        assert reason in (tmp_path / "coophash_build.h").read_text()
        monkeypatch.setenv("COOPHASH_CUDA", "1")
        with ThreadPoolExecutor(2) as pool, pytest.raises(SystemExit, match="CUDA=1, but: "):
            build._cuda(pool)

    def test_cuda_0_asks_no_compiler(self, setup_py, monkeypatch, tmp_path):
        monkeypatch.setenv("COOPHASH_CUDA", "0")
        monkeypatch.setattr(setup_py, "Nvcc", None)
        assert self.builder(setup_py, tmp_path)._cuda(None)[0] == []
        monkeypatch.setenv("COOPHASH_CUDA", "yes")
        with pytest.raises(SystemExit, match="must be auto, 0 or 1"):
            self.builder(setup_py, tmp_path)._cuda(None)

    def test_a_sanitizer_is_never_built_in_place(self, setup_py, monkeypatch, tmp_path):
        build = self.builder(setup_py, tmp_path)
        build.inplace = False
        monkeypatch.delenv("COOPHASH_SANITIZE", raising=False)
        assert build._sanitizer() == []
        monkeypatch.setenv("COOPHASH_SANITIZE", "thread")
        assert build._sanitizer() == ["-fsanitize=thread"]
        build.inplace = True
        with pytest.raises(SystemExit, match=r"not for the extension in place.*make tsan"):
            build._sanitizer()
        monkeypatch.setenv("COOPHASH_SANITIZE", "memory")
        with pytest.raises(SystemExit, match="must be address or thread, got 'memory'"):
            build._sanitizer()

    def test_no_compiler_is_said_with_the_mend(self, setup_py, monkeypatch, tmp_path):
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(shutil, "which", lambda _: None)
        with pytest.raises(SystemExit, match=r"needs a C\+\+17 compiler.*apt install g\+\+"):
            self.builder(setup_py, tmp_path)._compiler()

    def test_flags_of_an_instruction_set_stay_in_its_own_source(self, setup_py):
        text = (ROOT / "setup.py").read_text()
        assert "-march=native" not in text and "-ffast-math" not in text
        for source, flags in setup_py.CPU_SOURCES.items():
            assert not [flag for flag in flags if flag.startswith("-m")], source
        names = ("avx2", "avx512", "mih_avx2", "mih_avx512", "sliced_avx2", "sliced_avx512")
        assert set(setup_py.X86_FLAGS) == {f"cpu/{name}.cpp" for name in names}

    def test_every_source_is_built(self, setup_py):
        built = {*setup_py.CPU_SOURCES, *setup_py.CUDA_SOURCES, "cuda/absent.cpp"}
        there = {
            str(f.relative_to(ROOT / "csrc"))
            for f in (ROOT / "csrc").rglob("*")
            if f.suffix in (".cpp", ".cu")
        }
        assert built == there

    @pytest.mark.parametrize(
        ("source", "function"),
        [
            ("serial", "serial_kernels"),
            ("avx2", "avx2_kernels"),
            ("avx512", "avx512_kernels"),
            ("sliced_avx2", "avx2_sliced"),
            ("sliced_avx512", "avx512_sliced"),
            ("mih_avx2", "probe_avx2"),
            ("mih_avx512", "probe_avx512"),
        ],
    )
    def test_sources_of_instruction_sets_share_no_inline_function(
        self, setup_py, tmp_path, source, function
    ):
        # The linker keeps one copy of an inline function: it might be one that not every
        # processor can run.
        cxx, nm = shutil.which("c++"), shutil.which("nm")
        if not (cxx and nm):
            pytest.skip("no compiler")
        name = f"cpu/{source}.cpp"
        flags = setup_py.X86_FLAGS.get(name, []) if os.uname().machine == "x86_64" else []
        out = tmp_path / "a.o"
        command = [cxx, "-std=c++17", "-w", *flags, "-c", str(ROOT / "csrc" / name), "-o", str(out)]
        subprocess.run(command, check=True)
        listing = subprocess.run([nm, str(out)], capture_output=True, text=True, check=True).stdout
        symbols = {line.split()[-1]: line.split()[-2] for line in listing.splitlines()}
        public = [name for name, kind in symbols.items() if kind == "T"]
        assert len(public) == 1
        assert public[0].startswith(f"_ZN8coophash{len(function)}{function}E")
        assert not [name for name, kind in symbols.items() if kind in "VWu"]
