"""Networks of `benchmarks/memory_error.py` with real tensors."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.filterwarnings("ignore")  # of transformers
def test_networks_with_adapters_keep_their_data_types_on_a_device() -> None:
    pytest.importorskip("peft")
    import memory_error
    from fake_peak import register_attention

    register_attention()
    case = memory_error.Case("qwen2 50M", "adamw", "amp-bf16", 1, 8, lora="q,v")
    model = memory_error.make_real_model(case, "cpu")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert float(model(**memory_error.make_batch(case)).loss) > 0  # buffers have valid indices
