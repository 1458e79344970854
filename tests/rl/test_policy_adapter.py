"""What an adapter's name is made from; the rest of what it owes: tests/contracts/test_policy_adapter.py."""

import pytest
import torch

from rl.policy_adapter import DiffusionPolicyAdapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_any_kind_have_a_digest(tiny_policy, dtype):
    adapter = DiffusionPolicyAdapter(tiny_policy.to(dtype))
    before = adapter.digest()
    assert adapter.digest() == before
    with torch.no_grad():
        adapter.policy.denoiser.head.bias[0] += 1.0
    assert adapter.digest() != before
