"""Draw from any energy with the Langevin chain: here two Gaussian bumps in the plane.

python examples/sample_energy.py
"""

import torch

import coophash as ch

CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])


def energy(x: torch.Tensor) -> torch.Tensor:
    """-log of a mixture of two unit Gaussians: (B, 2) -> (B,)."""
    return -torch.logsumexp(-0.5 * torch.cdist(x, CENTRES).square(), dim=1)


start = torch.zeros(2000, 2)
samples, energies = ch.langevin(energy, start, steps=300, step_size=0.3, return_energies=True)
right = samples[samples[:, 0] > 0]
print(f"share in the right bump: {len(right) / len(samples):.2f}")
print(f"its mean: {right.mean(0).tolist()}, standard deviation: {right.std(0).tolist()}")
print(f"mean energy: {energies[0].mean():.2f} at the start, {energies[-1].mean():.2f} at the end")
