"""The CUDA part: what is in the cubins, and its results where there is a GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import coophash as ch
from coophash import _native

INFO = _native.build_info()
needs_cuda_build = pytest.mark.skipif(not INFO["cuda"], reason=f"no CUDA: {INFO['cuda_reason']}")


def cuobjdump() -> str:
    """The disassembler: of a CUDA toolkit, or the one that Triton's wheel carries."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if not found and triton and triton.origin:
        inside = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(inside) if inside.is_file() else None
    if not found:
        pytest.skip("no cuobjdump: neither a CUDA toolkit nor Triton is here")
    return found


def dump(*options: str) -> str:
    command = [cuobjdump(), *options, _native.library().__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.sass
@needs_cuda_build
class TestCubins:
    def test_every_architecture_is_there_and_the_newest_as_ptx(self):
        listed = set(re.findall(r"\.sm_(\d+)\.cubin", dump("--list-elf")))
        named = INFO["cuda_archs"].split()
        assert listed == {arch for arch in named if not arch.startswith("ptx")}
        ptx = set(re.findall(r"\.sm_(\d+)\.ptx", dump("--list-ptx")))
        assert ptx == {arch.removeprefix("ptx") for arch in named if arch.startswith("ptx")}

    def test_no_kernel_spills_and_all_count_bits_by_instruction(self):
        arch = INFO["cuda_archs"].split()[0]
        functions = re.split(r"Function : ", dump("-sass", "-arch", f"sm_{arch}"))[1:]
        kinds = [re.match(r"\S+?(count|place|write)_kernel", text)[1] for text in functions]
        assert sorted(kinds) == ["count"] * 3 + ["place"] + ["write"] * 3  # 8, 4 and 1 bytes
        for kind, text in zip(kinds, functions, strict=True):
            assert not re.search(r"\b(LDL|STL)\b", text), "local memory"
            assert bool(re.search(r"\sPOPC R", text)) == (kind != "place")

    def test_registers_leave_room_for_many_blocks(self):
        usage = re.findall(r"REG:(\d+) STACK:(\d+)", dump("-res-usage"))
        assert usage
        assert max(int(registers) for registers, _ in usage) <= 64
        assert {stack for _, stack in usage} == {"0"}


@pytest.mark.gpu
@pytest.mark.skipif(bool(_native.library().cuda_status()), reason=_native.library().cuda_status())
class TestTopk:
    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch")

    def cuda_topk(self, database, queries, k, first_id=0):
        """The kernel as it is, on memory of torch and on torch's stream."""
        library, torch = _native.library(), self.torch
        a, b = torch.from_numpy(database).cuda(), torch.from_numpy(queries).cuda()
        (rows, width), count = database.shape, len(queries)
        size = library.cuda_topk_workspace(rows, width, count)
        workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
        distances = torch.empty((count, k), dtype=torch.int32, device="cuda")
        ids = torch.empty((count, k), dtype=torch.int64, device="cuda")
        library.cuda_topk(
            codes=a.data_ptr(),
            rows=rows,
            width=width,
            first_id=first_id,
            queries=b.data_ptr(),
            count=count,
            k=k,
            workspace=workspace.data_ptr(),
            workspace_bytes=size,
            distances=distances.data_ptr(),
            ids=ids.data_ptr(),
            stream=torch.cuda.current_stream().cuda_stream,
            device=torch.cuda.current_device(),
        )
        return distances.cpu().numpy(), ids.cpu().numpy()

    @pytest.mark.parametrize("share", [0.5, 0.01])  # random, and ties by the thousand
    @pytest.mark.parametrize("width", [1, 4, 7, 8, 16, 33, 64, 512])
    def test_equal_to_the_cpu(self, width, share):
        rng = np.random.default_rng(width)
        for rows in (0, 1, 255, 4097, 60_000):
            database = ch.pack(rng.random((rows, 8 * width)) < share)
            for count, k in [(1, 1), (3, 100), (40, 7), (2, 70_000)]:
                queries = ch.pack(rng.random((count, 8 * width)) < share)
                found = self.cuda_topk(database, queries, k)
                expected = ch.hamming_topk(database, queries, k)
                np.testing.assert_array_equal(found[0], expected[0])
                np.testing.assert_array_equal(found[1], expected[1])

    def test_the_same_at_every_run_and_on_another_stream(self):
        rng = np.random.default_rng(0)
        database, queries = (ch.pack(rng.random((n, 64)) < 0.1) for n in (300_000, 20))
        first = self.cuda_topk(database, queries, 500)
        with self.torch.cuda.stream(self.torch.cuda.Stream()):
            again = self.cuda_topk(database, queries, 500)
        np.testing.assert_array_equal(first[1], again[1])

    def test_a_small_workspace_is_refused(self):
        with pytest.raises(RuntimeError, match="workspace is too small"):
            _native.library().cuda_topk(0, 10, 8, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0)

    def test_devices_are_named(self):
        devices = _native.library().cuda_devices()
        assert devices[0]["name"] == self.torch.cuda.get_device_name(0)
        assert devices[0]["compute_capability"] == self.torch.cuda.get_device_capability(0)


@pytest.mark.skipif(not _native.library().cuda_status(), reason="there is a GPU")
def test_without_a_gpu_the_kernel_says_why_and_does_not_crash():
    with pytest.raises(RuntimeError, match="CUDA: "):
        _native.library().cuda_topk(0, 10, 8, 0, 0, 1, 1, 0, 1 << 30, 0, 0, 0, 0)
