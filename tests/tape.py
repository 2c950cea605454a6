"""A stand-in for CUDA graphs on the CPU: a tape of recorded ops, replayed on the same memory.

Like a graph it freezes what Python computed, reads tensors where they lay at capture, leaves its
results in the same tensors each time, and does not run anything while it records.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def _tensors(value):
    return [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]


class Recorder(TorchDispatchMode):
    """The ops of a call, and the values of what they read from outside."""

    def __init__(self):
        super().__init__()
        self.ops, self.made, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in _tensors((args, kwargs)):
            place = tensor.untyped_storage().data_ptr()
            if place not in self.made and place not in self.before:
                self.before[place] = (tensor.detach(), tensor.detach().clone())
        result = func(*args, **(kwargs or {}))
        self.made |= {t.untyped_storage().data_ptr() for t in _tensors(result)} - set(self.before)
        self.ops.append((func, args, kwargs or {}, result))
        return result


class TapeDevice:
    """The `Device` of coophash._chain_device, with a log of what was asked of it."""

    def __init__(self):
        self.log, self.capturing, self.fail = [], False, None

    def busy(self):
        return self.capturing

    def refusal(self, x, draws):
        return None

    def aside(self, call):
        self.log.append("aside")
        with torch.random.fork_rng(devices=[]):
            call()

    def capture(self, call):
        self.log.append("capture")
        if self.fail is not None:
            raise self.fail
        recorder = Recorder()
        with torch.random.fork_rng(devices=[]), recorder:
            result = call()
        for tensor, before in recorder.before.values():
            tensor.copy_(before)  # a capture runs nothing
        for tensor in _tensors(result):
            tensor.zero_()
        return lambda: self._replay(recorder.ops), result

    def _replay(self, ops):
        self.log.append("replay")
        with torch.no_grad():
            for func, args, kwargs, result in ops:
                aliases = [a.alias_info for a in func._schema.arguments if a.alias_info]
                if aliases and not any(a.is_write for a in aliases):
                    continue  # a view of memory that is brought up to date
                fresh = func(*args, **kwargs)
                if not aliases:
                    for old, new in zip(_tensors(result), _tensors(fresh), strict=True):
                        old.copy_(new)

    def wait(self, mark):
        self.log.append(("wait", mark))

    def mark(self):
        self.log.append("mark")
        return len(self.log)

    def finish(self, mark):
        self.log.append(("finish", mark))
